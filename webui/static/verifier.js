// The page's side of the verifier, which runs in a worker.

let worker;
let last = 0;
const waiting = new Map();

function start() {
  worker = new Worker("/worker.js");
  worker.addEventListener("message", ({ data }) => {
    const promise = waiting.get(data.id);
    waiting.delete(data.id);
    if (data.error !== undefined) promise.reject(new Error(data.error));
    else promise.resolve(data.value);
  });
  worker.addEventListener("error", () => {
    for (const promise of waiting.values()) promise.reject(new Error("The verifier's worker stopped. Reload the page."));
    waiting.clear();
    worker = undefined;
  });
}

function ask(name, ...args) {
  if (!worker) start();
  const id = ++last;
  return new Promise((resolve, reject) => {
    waiting.set(id, { resolve, reject });
    worker.postMessage({ id, name, args });
  });
}

// bundle verifies a proof bundle file and returns its report.
export const bundle = (data, trust, execution = "") => ask("bundle", data, trust, execution);
// root checks what the server says about the cluster, now.
export const root = (claim, trust) => ask("root", claim, trust, Date.now());
// summarize describes what is trusted; it rejects with what is wrong with it.
export const summarize = (trust) => ask("summarize", trust);
