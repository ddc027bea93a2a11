// The public API of the control plane, as plain JSON.

import { token } from "./session.js";

// A Refusal is an answer of the server that says no.
export class Refusal extends Error {
  constructor(message, status) {
    const found = String(message ?? "").match(/^\[([a-z_]+)\] (.*)$/s);
    super(found ? found[2] : message || `The server answered with status ${status}.`);
    this.code = found ? found[1] : "";
    this.status = status;
  }
  // unauthenticated: another token may help.
  get unauthenticated() { return this.code.startsWith("token_"); }
}

const address = (method) => `/tallystick.v1.${method}`;

function headers(contentType) {
  const all = { "Content-Type": contentType };
  if (token()) all.Authorization = `Bearer ${token()}`;
  return all;
}

// ask is fetch, but for what it says of a server that is not there: each browser has
// words of its own for that, which help nobody.
async function ask(resource, options) {
  try {
    return await fetch(resource, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. Is it running, and can this machine reach it?");
  }
}

// call calls a method that is no stream, for example "Control/GetClusterRoot".
export async function call(method, message = {}, signal) {
  const response = await ask(address(method), {
    method: "POST", headers: headers("application/json"), body: JSON.stringify(message), signal, cache: "no-store",
  });
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Refusal(answer.message, response.status);
  return answer;
}

// watch yields the messages of a stream: frames of a byte of flags, four of
// length, and JSON; the one with flag 2 ends it.
export async function* watch(method, message, signal) {
  const body = new TextEncoder().encode(JSON.stringify(message));
  const request = new Uint8Array(5 + body.length);
  new DataView(request.buffer).setUint32(1, body.length);
  request.set(body, 5);
  const response = await ask(address(method), {
    method: "POST", headers: headers("application/connect+json"), body: request, signal, cache: "no-store",
  });
  if (!response.ok || !response.body) throw new Refusal("", response.status);
  let held = new Uint8Array();
  for await (const chunk of chunks(response.body)) {
    const joined = new Uint8Array(held.length + chunk.length);
    joined.set(held);
    joined.set(chunk, held.length);
    held = joined;
    while (held.length >= 5) {
      const end = 5 + new DataView(held.buffer, held.byteOffset).getUint32(1);
      if (held.length < end) break;
      const frame = JSON.parse(new TextDecoder().decode(held.subarray(5, end)));
      if (held[0] & 2) {
        if (frame.error) throw new Refusal(frame.error.message, 200);
        return;
      }
      yield frame;
      held = held.slice(end);
    }
  }
}

async function* chunks(stream) {
  const reader = stream.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

// decode turns a bytes field into bytes.
export function decode(base64) {
  return Uint8Array.from(atob(base64 ?? ""), (c) => c.charCodeAt(0));
}

// file fetches one of the server's public files.
export async function file(path) {
  const response = await ask(path, { cache: "no-store" });
  if (!response.ok) throw new Error(`The server has no ${path}.`);
  return new Uint8Array(await response.arrayBuffer());
}
