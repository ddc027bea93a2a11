// What the page relies on, where it came from, and how to pin one's own.

import * as trust from "../trust.js";
import { ago, banner, facts, h, hash, pill, replace } from "../ui.js";

export async function view({ refresh }) {
  const relied = await trust.current();
  const { summary, source } = relied;
  return [
    h("h1", null, "What this page trusts"),
    h("p", { class: "lead" }, "Three small files decide what is believed: the genesis, by which the cluster's membership is known, " +
      "and two policies, which name the logs' keys and the witnesses whose cosignatures count. Get them from people, not from the server."),
    statement(relied),
    relied.problem ? banner("bad", h("p", null, relied.problem)) : null,
    summary ? h("section", { class: "card" },
      h("div", { class: "heading" }, h("h2", null, summary.cluster), source === "pinned" ? pill("good", "pinned by you") : pill("wait", "suggested by the server")),
      h("p", { class: "digest" }, h("span", { class: "muted" }, "Genesis SHA-256"), h("code", null, summary.genesis_digest)),
      facts(
        ["First admins", `${summary.admins.join(", ")} (${summary.threshold} of ${summary.admins.length} decide)`],
        ["Audit policy", [h("code", null, summary.audit.origin), " ", hash(summary.audit.digest, "digest of the audit policy")]],
        ["Its witnesses", witnesses(summary.audit)],
        ["Membership policy", [h("code", null, summary.membership.origin), " ", hash(summary.membership.digest, "digest of the membership policy")]],
        ["Its witnesses", witnesses(summary.membership)]),
      h("div", { class: "actions" },
        source === "pinned" ? h("button", { type: "button", onclick: () => { trust.forget(); refresh(); } }, "Forget what I pinned") :
          h("button", { type: "button", class: "primary", onclick: async () => { await trust.pin(relied.texts); refresh(); } },
            source === "changed" ? "Pin what is suggested now" : "Pin these: I have compared them"),
        source === "changed" ? h("button", { type: "button", onclick: () => { trust.forget(); refresh(); } }, "Start over") : null)) : null,
    own(relied, refresh),
    summary ? h("details", { class: "card" }, h("summary", null, "The files themselves"),
      Object.entries(trust.parts).map(([name, part]) => [
        h("h3", null, part.title), h("pre", { tabindex: "0", "aria-label": part.title }, relied.texts[name]),
      ])) : null,
  ];
}

const witnesses = (policy) => policy.no_quorum ? "none asked for" : policy.witnesses.join(", ");

function statement(relied) {
  switch (relied.source) {
    case "pinned":
      return banner("good", h("p", null, h("strong", null, "You pinned these files in this browser. "),
        relied.differs ? "The server suggests others now. It cannot change yours: ask an admin of the cluster why." : "The server suggests the same ones."));
    case "served":
      return banner("warn", h("p", null, h("strong", null, "Trust on first use. "),
        "These files came from this server, first seen ", ago(relied.since), ". A lying server would suggest its own. " +
        "Compare the digest below with one that an admin of the cluster gives you, then pin them."));
    case "changed":
      return banner("bad", h("p", null, h("strong", null, "The server suggests other files than when you first came. "),
        "Either the cluster's witnesses were changed, or this is not the cluster that you first saw. Ask an admin of the cluster before you pin them."));
  }
  return banner("bad", h("p", null, h("strong", null, "There is nothing to rely on. "), "Give the page your own files."));
}

// own takes the user's files, dropped, chosen or pasted.
function own(relied, refresh) {
  const texts = { ...relied.texts };
  const areas = {};
  const problem = h("p", { class: "error", role: "alert" });
  for (const [name, part] of Object.entries(trust.parts)) {
    areas[name] = h("textarea", { id: `own-${name}`, rows: "4", spellcheck: "false", autocomplete: "off", placeholder: part.name });
    areas[name].addEventListener("input", () => { texts[name] = areas[name].value; });
  }
  async function take(files) {
    problem.textContent = "";
    for (const file of files) {
      const text = file.size <= 1 << 20 ? await file.text() : "";
      const name = trust.kindOf(text);
      if (!name) {
        problem.textContent = `${file.name} is none of the three files.`;
        continue;
      }
      // White space may matter: what is kept is the file, not the field.
      texts[name] = text;
      areas[name].value = text;
    }
  }
  const input = h("input", { type: "file", id: "own-files", class: "sr", multiple: true });
  input.addEventListener("change", () => take(input.files));
  const zone = h("label", { class: "drop small", for: "own-files" }, h("strong", null, "Drop your files here"),
    h("span", { class: "muted" }, "genesis.json, audit.policy, membership.policy"), input);
  zone.addEventListener("dragover", (event) => { event.preventDefault(); zone.classList.add("over"); });
  zone.addEventListener("dragleave", () => zone.classList.remove("over"));
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    take(event.dataTransfer.files);
  });
  return h("details", { class: "card" },
    h("summary", null, "Use my own files"), zone,
    Object.entries(trust.parts).map(([name, part]) => [h("label", { for: `own-${name}` }, part.title), areas[name]]),
    problem,
    h("div", { class: "actions" }, h("button", {
      type: "button", class: "primary", onclick: async () => {
        try {
          await trust.pin(texts);
          refresh();
        } catch (error) {
          replace(problem, `These cannot be pinned: ${error.message}`);
        }
      },
    }, "Pin these files")));
}
