// The verifier in a worker of its own, so that a large proof does not freeze
// the page. A classic script, because Go's runtime support is one.

"use strict";

const ready = (async () => {
  try {
    importScripts("/dist/wasm_exec.js");
    const go = new Go();
    const { instance } = await WebAssembly.instantiateStreaming(fetch("/dist/verifier.wasm"), go.importObject);
    go.run(instance); // never ends
  } catch (cause) {
    throw new Error("This control plane was built without the page's verifier: build it with scripts/build. " +
      "The command “verifier proof” works without it.", { cause });
  }
})();
ready.catch(() => {}); // told to whoever asks

addEventListener("message", async ({ data: { id, name, args } }) => {
  try {
    await ready;
    const result = JSON.parse(tallystick[name](...args));
    postMessage(result.error === undefined ? { id, value: result.value } : { id, error: result.error });
  } catch (fault) {
    postMessage({ id, error: fault.message });
  }
});
