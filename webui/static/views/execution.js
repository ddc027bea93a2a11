// One execution: how far it has come, who reported what, and its proof.

import { call, decode, watch } from "../api.js";
import * as trust from "../trust.js";
import { ago, banner, bytes, facts, h, hash, icon, outcomeName, outcomePill, pill, replace, save, stateName, statePill } from "../ui.js";
import { proof } from "./verdict.js";

export async function execution({ id, signal }) {
  const { status } = await call("Control/QueryExecutionStatus", { executionId: id }, signal);
  const { contract } = await call("Control/GetContract", { contractHash: status.contractHash }, signal);
  const progress = h("div", null);
  const result = h("div", null);
  const detail = h("div", null);
  let proven = false;

  async function update(now) {
    replace(progress, head(now, contract), timeline(now));
    replace(detail, reports(now));
    if (now.proofReady && !proven) {
      proven = true;
      await showProof(now);
    }
  }
  async function showProof(now) {
    const [{ bundle }, relied] = await Promise.all([
      call("Control/RetrieveExecutionProof", { executionId: id }, signal), trust.current(),
    ]);
    replace(result, proof(decode(bundle), relied, { execution: id, name: `${id.slice(0, 16)}.tallyproof` },
      (e) => [otherwise(now, contract, e), output(e, signal)]));
  }
  const fail = (error) => {
    if (!signal.aborted) replace(result, banner("bad", h("p", null, error.message)));
  };
  if (!status.proofReady) {
    follow(id, signal, update).catch(fail);
  }
  update(status).catch(fail);
  return [progress, result, detail];
}

// follow watches until the execution has ended and its proof is there. A watch
// is one recorded operation, however long it takes.
async function follow(id, signal, update) {
  for await (const { status } of watch("Control/WatchExecution", { executionId: id }, signal)) {
    await update(status);
  }
}

function head(s, contract) {
  return [
    h("div", { class: "heading" },
      h("div", null, h("p", { class: "eyebrow" }, h("a", { href: "#/executions" }, "Executions")),
        h("h1", null, contract?.name ?? "Execution", contract?.version ? h("span", { class: "muted" }, ` ${contract.version}`) : null)),
      h("span", { class: "tags" }, outcomePill(s.outcome), statePill(s.state))),
    h("section", { class: "card" }, facts(
      ["Execution", hash(s.executionId, "execution id")],
      ["Tenant", s.tenant],
      ["Contract", hash(s.contractHash, "contract hash")],
      ["Input", hash(s.inputDigest, "input digest")],
      ["Submitted", [ago(Number(s.submittedUnixMs)), h("span", { class: "muted" }, `, at index ${s.requestIndex ?? 0}, epoch ${s.epoch}`)]],
      ["Schedule", hash(s.clusterScheduleHash, "cluster schedule hash")])),
  ];
}

// timeline shows the way of an execution, and how far this one is.
function timeline(s) {
  const reports = s.reports ?? [];
  const assigned = s.assignedNodes ?? [];
  const ended = s.state !== "EXECUTION_STATE_OPEN";
  const complete = s.state === "EXECUTION_STATE_COMPLETE";
  const stages = [
    ["Submitted", true, "signed by the tenant, in the audit log"],
    ["Witnessed", s.witnessed, "covered by a cosigned checkpoint"],
    ["Assigned", assigned.length > 0, s.attempt > 0 ? `${assigned.length} nodes, attempt ${s.attempt}` : `${assigned.length} nodes`],
    ["Attested", reports.length > 0, `${reports.length} of ${assigned.length} nodes reported`],
    [ended && !complete ? stateName(s.state) : "Agreed", ended, complete ? `${reports.filter((r) => r.agrees).length} nodes agree` : ended ? "it has ended" : "waiting for agreement"],
    ["Proof", s.proofReady, s.proofReady ? "ready" : ended ? "waiting for witnesses" : ""],
  ];
  const current = stages.findIndex(([, done]) => !done);
  return h("ol", { class: "timeline", "aria-label": "Progress" }, stages.map(([name, done, detail], i) =>
    h("li", { class: done ? (name === "Agreed" || i !== 4 ? "done" : "ended") : i === current && !(ended && !complete) ? "now" : "", "aria-current": i === current ? "step" : null },
      h("span", { class: "mark" }, icon(!done ? "dot" : i === 4 && ended && !complete ? "cross" : "check")),
      h("strong", null, name.charAt(0).toUpperCase() + name.slice(1)), h("span", { class: "muted" }, detail))));
}

function reports(s) {
  const assigned = s.assignedNodes ?? [];
  if (assigned.length === 0) return null;
  const said = Map.groupBy(s.reports ?? [], (r) => r.node); // a node may have said two things
  return h("section", { class: "card" },
    h("h2", null, "Reports"),
    h("div", { class: "scroll" }, h("table", null,
      h("thead", null, h("tr", null, ["Rank", "Node", "Result digest", "Index", "Agreement"].map((t) => h("th", { scope: "col" }, t)))),
      h("tbody", null, assigned.flatMap((node, i) => (said.get(node) ?? [null]).map((r) => {
        return h("tr", null,
          h("td", { class: "number" }, String(i)), h("th", { scope: "row" }, node),
          h("td", null, r ? hash(r.resultDigest, "result digest") : h("span", { class: "muted" }, s.state === "EXECUTION_STATE_OPEN" ? "none yet" : "none")),
          h("td", { class: "number" }, r ? String(r.index ?? 0) : ""),
          h("td", null, r ? stance(r) : ""));
      }))))));
}

// stance says how a report stands to what the execution came to.
function stance(r) {
  if (r.abandoned) return pill("plain", r.abandoned);
  const [tone, text] = {
    agrees: ["good", "agrees"], late: ["plain", "the same, later"], differs: ["bad", "differs"],
    checkpoint: ["bad", "another checkpoint"], disputed: ["bad", "disputed"], void: ["bad", "void"],
  }[r.stance] ?? ["plain", "reported"];
  return pill(tone, r.evidence && tone === "bad" ? `${text}, later` : text);
}

// otherwise names what the server says of an execution above and its proof does not.
function otherwise(s, contract, e) {
  const lies = [
    ["its state", stateName(s.state), e.state],
    ["the tenant", s.tenant, e.tenant],
    ["the contract", `${s.contractHash} (${contract?.name} ${contract?.version})`, `${e.contract_hash} (${e.contract_name} ${e.contract_version})`],
    ["the input", s.inputDigest, e.input_digest],
    ["the epoch", s.epoch, e.epoch],
    ["the index of the request", s.requestIndex ?? 0, e.request_index],
    ["the schedule", s.clusterScheduleHash, e.cluster_schedule_hash],
    ["the nodes that agree", agreeing(s), e.nodes.map((n) => `${n.id} at ${n.index}`).sort().join(", ")],
    ["the outcome", outcomeName(s.outcome), e.outcome ? outcomeName({ kind: e.outcome.kind, exitCode: e.outcome.exit_code }) : ""],
    ["the output", s.outcome?.outputDigest ?? "", e.outcome?.output_digest ?? ""],
  ].filter(([, said, proven]) => String(said) !== String(proven));
  if (lies.length === 0) return null;
  return banner("bad", h("p", null, h("strong", null, "Above, the server says something else than is proven. "), "Rely on what is proven:"),
    h("ul", null, lies.map(([what, said, proven]) => h("li", null, `Of ${what} it says ${said}; proven is ${proven}.`))));
}

const agreeing = (s) => (s.reports ?? []).filter((r) => r.agrees).map((r) => `${r.node} at ${r.index ?? 0}`).sort().join(", ");

// output offers the output of a proven execution, and shows it if it is text.
function output(e, signal) {
  const o = e.outcome;
  if (!o || o.output_length === 0) return null;
  const place = h("div", null);
  const button = h("button", { type: "button" }, "Show the output");
  button.addEventListener("click", async () => {
    button.disabled = true;
    try {
      const data = decode((await call("Control/GetBlob", { digest: o.output_digest }, signal)).data);
      const same = await sha256(data) === o.output_digest;
      replace(place,
        h("p", null, same ? pill("good", "has the digest of the proof") : pill("bad", "is not the output of this execution"), " ",
          h("button", { type: "button", onclick: () => save(data, `${e.id.slice(0, 16)}.output`) }, "Download")),
        preview(data));
      button.remove();
    } catch (error) {
      button.disabled = false;
      replace(place, banner("warn", h("p", null, error.message)));
    }
  });
  return h("section", { class: "card" },
    h("div", { class: "heading" }, h("h2", null, "Output"), h("span", { class: "muted" }, bytes(o.output_length))), button, place);
}

async function sha256(data) {
  const sum = new Uint8Array(await crypto.subtle.digest("SHA-256", data));
  return Array.from(sum, (b) => b.toString(16).padStart(2, "0")).join("");
}

const previewCharacters = 16 * 1024;

// preview shows the beginning of a text. JSON is laid out for reading; the
// bytes that the proof is about are those of the download.
function preview(data) {
  let text;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(data);
  } catch {
    return h("p", { class: "muted" }, "It is not text.");
  }
  let note = null;
  try {
    text = JSON.stringify(JSON.parse(text), null, 2);
    note = h("p", { class: "muted small" }, "JSON, laid out for reading.");
  } catch {
    // It is shown as it is.
  }
  return [note, h("pre", { tabindex: "0", "aria-label": "Output" }, text.slice(0, previewCharacters), text.length > previewCharacters ? "\n…" : "")];
}
