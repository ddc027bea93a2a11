// The verdict on a proof bundle, and on what it rests.

import * as verifier from "../verifier.js";
import { ago, banner, bytes, count, facts, h, hash, icon, outcomeName, replace, save, sentence, steps } from "../ui.js";

// trustLine says in one sentence whose genesis and policies were used.
export function trustLine(relied) {
  const digest = relied.summary ? ["genesis ", h("code", { title: relied.summary.genesis_digest }, `${relied.summary.genesis_digest.slice(0, 16)}…`)] : "no readable genesis";
  const more = h("a", { href: "#/trust" }, "What this page trusts");
  switch (relied.source) {
    case "pinned":
      return h("p", null, "Against the files that you pinned (", digest, "). ", relied.differs ? "The server now suggests others. " : "", more);
    case "served":
      return h("p", null, "On first use: against the files that this server suggests (", digest, "), first seen ", ago(relied.since),
        ". Compare them with what an admin of the cluster gives you. ", more);
    case "changed":
      return h("p", null, h("strong", null, "The server suggests other files than when you first came"), " (", digest, "). ", more);
  }
  return h("p", null, "There is nothing to verify against. ", more);
}

// proof verifies a bundle file and shows what came of it, in an element. more
// makes, from the proven execution, what else there is to show of it; that comes
// after the verdict.
export function proof(file, relied, { execution = "", name = "proof.tallyproof" } = {}, more = null) {
  const place = h("div", { class: "proof" }, h("p", { class: "loading", role: "status" }, "Verifying in this browser…"));
  run(place, file, relied, { execution, name, more, tampered: false });
  return place;
}

async function run(place, file, relied, options) {
  const begun = performance.now();
  let report;
  try {
    report = await verifier.bundle(file, relied.files, options.execution);
  } catch (error) {
    replace(place, banner("warn", h("p", null, h("strong", null, "Nothing was verified. "), error.message)));
    return;
  }
  const took = performance.now() - begun;
  const verdict = judge(report, relied);
  const again = (changed) => {
    replace(place, h("p", { class: "loading", role: "status" }, "Verifying in this browser…"));
    run(place, changed, relied, { ...options, tampered: changed !== file });
  };
  replace(place,
    h("section", { class: `card verdict ${verdict.tone}`, role: "status" },
      h("div", { class: "verdict-line" }, icon(verdict.tone === "bad" ? "cross" : "check", "big"),
        h("div", null,
          h("h2", null, verdict.title),
          verdict.holds ? trustLine(relied) : h("p", null, `Do not rely on it. ${sentence(report.failure.hint)}.`))),
      steps(report.steps),
      h("p", { class: "muted small" }, `${bytes(file.length)}, checked in ${took < 1000 ? `${Math.max(1, Math.round(took))} ms` : `${(took / 1000).toFixed(1)} s`} on this machine.`),
      options.tampered ? h("p", { class: "tampered" }, "This was a copy with one bit flipped. ",
        h("button", { type: "button", onclick: () => run(place, options.original, relied, { ...options, tampered: false, original: undefined }) }, "Check the original again")) :
        h("div", { class: "actions" },
          h("button", { type: "button", onclick: () => save(file, options.name) }, "Download the bundle"),
          h("button", { type: "button", class: "quiet", onclick: () => { options.original = file; again(flipped(file)); } }, "Flip one bit and check again"))),
    verdict.holds ? [options.more?.(report.execution), executionFacts(report.execution), rests(report)] : null);
}

// judge sums a report up. A bundle may prove that an execution has ended without
// a result: the report has it as a failure, since there is nothing to rely on,
// but all that the bundle says holds.
function judge(report, relied) {
  const ended = report.failure?.code === "no_result";
  if (!report.verified && !ended) return { holds: false, tone: "bad", title: "Refused" };
  if (relied.source === "changed") return { holds: true, tone: "bad", title: "Verified, but not against what you first saw" };
  if (ended) return { holds: true, tone: "warn", title: `Proven: ${report.execution.state}, without a result` };
  const outcome = report.execution.outcome;
  return { holds: true, tone: "good", title: outcome.kind === "ok" ? "Proven" : `Proven: the outcome is ${outcomeText(outcome)}` };
}

const outcomeText = (o) => outcomeName({ kind: o.kind, exitCode: o.exit_code });

// flipped is a copy with one random bit changed, after the first line.
function flipped(file) {
  const copy = file.slice();
  const start = copy.indexOf(10) + 1;
  const at = start + Math.floor(Math.random() * (copy.length - start));
  copy[at] ^= 1 << Math.floor(Math.random() * 8);
  return copy;
}

function executionFacts(e) {
  const o = e.outcome;
  return h("section", { class: "card" },
    h("h2", null, "What was executed"),
    facts(
      ["Execution", hash(e.id, "execution id")],
      ["Tenant", e.tenant],
      ["Contract", [`${e.contract_name} ${e.contract_version} `, hash(e.contract_hash, "contract hash")]],
      ["Module", hash(e.module_digest, "module digest")],
      ["Input", hash(e.input_digest, "input digest")],
      e.parents ? ["Parents", e.parents.map((p) => hash(p.id, "parent"))] : null,
      o ? ["Outcome", outcomeText(o)] : ["End", `${e.state}, without a result`],
      o ? ["Output", [`${bytes(o.output_length)} `, hash(o.output_digest, "output digest")]] : null,
      o ? ["Gas", o.gas === undefined ? "not metered" : count(o.gas)] : null,
      o ? ["Memory", bytes(o.peak_pages * 65536)] : null,
      ["Nodes that agree", `${e.nodes.map((n) => n.id).join(", ") || "none"} (${e.agreement} needed)`],
      ["Epoch", [`${e.epoch}, membership `, hash(e.membership_hash, "membership hash")]],
      ["Schedule", hash(e.cluster_schedule_hash, "cluster schedule hash")],
      o ? ["Result digest", hash(e.result_digest, "result digest")] : null,
      o ? ["Execution proof", hash(e.execution_proof, "execution proof")] : null,
      ["Provenance chain", [`${e.chain_length} links, `, hash(e.chain_head, "chain head")]]));
}

function rests(report) {
  const list = (items) => h("ul", null, (items ?? []).map((t) => h("li", null, t)));
  return h("div", { class: "grid two" },
    h("section", { class: "card" }, h("h2", null, "What this proves"), list(report.proven)),
    h("section", { class: "card" }, h("h2", null, "What it leaves to others"), list(report.not_proven)));
}
