// What the page relies on: the genesis and the two policies. The user's own
// files, pinned in this browser, come first; without them the page takes what
// the server suggests, and remembers which it saw first.

import { file } from "./api.js";
import * as verifier from "./verifier.js";

const pinnedKey = "tallystick.trust";
const seenKey = "tallystick.seen";

// parts are the three files by their names here and at the server.
export const parts = {
  genesis: { path: "/genesis", title: "Genesis", name: "genesis.json" },
  auditPolicy: { path: "/audit.policy", title: "Audit policy", name: "audit.policy" },
  membershipPolicy: { path: "/membership.policy", title: "Membership policy", name: "membership.policy" },
};

let served; // promise of the server's suggestion

function stored(key) {
  try {
    return JSON.parse(localStorage.getItem(key));
  } catch {
    return null;
  }
}

const encode = (text) => new TextEncoder().encode(text);
const toBytes = (texts) => Object.fromEntries(Object.keys(parts).map((k) => [k, encode(texts[k] ?? "")]));

async function suggestion() {
  served ??= (async () => {
    const texts = {};
    for (const [name, part] of Object.entries(parts)) {
      texts[name] = new TextDecoder().decode(await file(part.path));
    }
    return texts;
  })();
  served.catch(() => { served = undefined; });
  return served;
}

// current returns what to rely on:
//   source   "pinned", "served", or "changed" if the server suggests something
//            else than at first and the user has pinned nothing
//   files    the three files as bytes, for the verifier
//   texts    the same as text
//   summary  what the verifier reads in them; null if it cannot
//   problem  why not
//   differs  the server suggests other files than the pinned ones
//   since    when the suggestion was first seen, in milliseconds
export async function current() {
  const pinned = stored(pinnedKey);
  let offered = null;
  let problem = "";
  try {
    offered = await suggestion();
  } catch (error) {
    problem = error.message;
  }
  const texts = pinned ?? offered;
  if (!texts) return { source: "none", texts: {}, files: toBytes({}), summary: null, problem };
  const result = { source: pinned ? "pinned" : "served", texts, files: toBytes(texts), summary: null, problem: "" };
  try {
    result.summary = await verifier.summarize(result.files);
  } catch (error) {
    result.problem = error.message;
  }
  if (pinned) {
    result.differs = offered !== null && Object.keys(parts).some((k) => offered[k] !== pinned[k]);
  } else if (result.summary) {
    const mark = [result.summary.genesis_digest, result.summary.audit.digest, result.summary.membership.digest].join(" ");
    let seen = stored(seenKey);
    if (!seen) {
      seen = { mark, since: Date.now() };
      localStorage.setItem(seenKey, JSON.stringify(seen));
    }
    result.since = seen.since;
    if (seen.mark !== mark) result.source = "changed";
  }
  return result;
}

// pin keeps files as the user's own. It rejects files that cannot be read.
export async function pin(texts) {
  await verifier.summarize(toBytes(texts));
  localStorage.setItem(pinnedKey, JSON.stringify(texts));
}

// forget goes back to the server's suggestion, as on a first visit.
export function forget() {
  localStorage.removeItem(pinnedKey);
  localStorage.removeItem(seenKey);
}

// kindOf guesses which of the three files a text is.
export function kindOf(text) {
  if (text.trimStart().startsWith("{")) return "genesis";
  if (/^log\s+[^\s+]*\/membership\+/m.test(text)) return "membershipPolicy";
  if (/^log\s+[^\s+]*\/audit\+/m.test(text)) return "auditPolicy";
  return "";
}
