// The cluster: its root with its cosignatures, its members, its nodes.

import { call, decode, Refusal } from "../api.js";
import * as trust from "../trust.js";
import * as verifier from "../verifier.js";
import { ago, banner, count, facts, h, hash, icon, pill, steps } from "../ui.js";
import { trustLine } from "./verdict.js";
import { executionTable } from "./executions.js";

export async function overview({ signal, refresh }) {
  const root = await call("Control/GetClusterRoot", {}, signal);
  const [changes, relied, nodes, recent] = await Promise.all([
    allChanges(signal),
    trust.current(),
    optional(call("Control/ListClusterNodes", {}, signal)),
    optional(call("Control/ListExecutions", { pageSize: 5 }, signal)),
  ]);
  const report = await verifier.root({
    membershipCheckpoint: decode(root.membershipCheckpoint),
    auditCheckpoint: decode(root.auditCheckpoint),
    membershipHash: root.membershipHash ?? "",
    clusterIdentityHash: root.clusterIdentityHash ?? "",
    changes,
  }, relied.files).catch((error) => ({ error }));

  return [
    h("div", { class: "heading" },
      h("div", null, h("p", { class: "eyebrow" }, "Cluster"), h("h1", null, (report.verified && report.cluster.name) || root.cluster)),
      h("button", { type: "button", onclick: refresh, title: "Every look is recorded, so this page looks only when you do" }, "Refresh")),
    verdict(report, relied),
    h("div", { class: "grid two" },
      logCard("Membership", "Who may act. Its cosigned checkpoint is the cluster membership root.", report.membership, relied.summary?.membership),
      logCard("Audit", "What happened. Its checkpoints are the audit roots.", report.audit, relied.summary?.audit,
        facts(["Entries now, as the server tells it", count(root.auditSize)]))),
    identity(report, root),
    nodes ? nodeCard(nodes.nodes ?? []) : null,
    recent ? h("section", { class: "card" },
      h("div", { class: "heading" }, h("h2", null, "Recent executions"), h("a", { href: "#/executions" }, "All executions")),
      executionTable(recent.executions ?? [], new Map())) : null,
  ];
}

// optional turns "not for your kind of principal" into nothing.
async function optional(promise) {
  try {
    return await promise;
  } catch (error) {
    if (error instanceof Refusal && error.code === "permission_denied") return null;
    throw error;
  }
}

async function allChanges(signal) {
  const all = [];
  for (;;) {
    const part = await call("Membership/ListChanges", { fromEpoch: all.length + 1 }, signal);
    all.push(...(part.changes ?? []).map(decode));
    if (!part.changes?.length || all.length >= Number(part.currentEpoch)) return all;
  }
}

function verdict(report, relied) {
  if (report.error) {
    return banner("warn", h("p", null, h("strong", null, "Nothing was verified. "), report.error.message));
  }
  const good = report.verified && relied.source !== "changed";
  return h("section", { class: `card verdict ${good ? "good" : "bad"}` },
    h("div", { class: "verdict-line" }, icon(good ? "check" : "cross", "big"),
      h("div", null,
        h("h2", null, good ? "Cluster root verified in this browser" : "The cluster root does not verify"),
        trustLine(relied))),
    h("details", { open: !report.verified }, h("summary", null, `${report.steps.filter((s) => s.ok).length} of ${report.steps.length} checks passed`),
      steps(report.steps)));
}

// identity shows what was recomputed here, and nothing that the server says, if
// all of it verifies; else what the server says, and says so.
function identity(report, root) {
  const card = (title, c, members) => h("section", { class: "card identity" }, h("h2", null, title), facts(
    ["Epoch", `${count(c.epoch)}${c.unwitnessed ? `, the last ${count(c.unwitnessed)} not witnessed yet` : ""}`],
    ["Members", members],
    ["Admins that must agree", c.admins],
    ["Node quorum", c.nodes],
    ["Membership hash", hash(c.membershipHash, "membership hash")],
    ["Cluster identity hash", hash(c.identityHash, "cluster identity hash")]));
  if (!report.verified) {
    return card("Identity, as the server tells it", {
      epoch: root.epoch, admins: count(root.adminThreshold), nodes: `${count(root.nodeQuorum)} of ${count(root.memberNodes)} nodes must be members`,
      membershipHash: root.membershipHash, identityHash: root.clusterIdentityHash,
    }, count(root.membershipCount));
  }
  const c = report.cluster, kinds = Object.entries(c.members).sort();
  return card("Identity", {
    epoch: c.epoch, unwitnessed: c.unwitnessed, admins: `${count(c.admin_threshold)} of ${count(c.members.admin)}`,
    nodes: `${count(c.node_quorum)} of ${count(c.members.node)} nodes must be members`,
    membershipHash: c.membership_hash, identityHash: c.identity_hash,
  }, `${count(kinds.reduce((sum, [, n]) => sum + n, 0))}: ${kinds.map(([kind, n]) => `${n} ${kind}${n === 1 ? "" : "s"}`).join(", ")}`);
}

function logCard(name, about, checkpoint, policy, more) {
  const signed = new Map((checkpoint?.cosignatures ?? []).map((c) => [c.witness, c.timestamp]));
  return h("section", { class: "card" },
    h("div", { class: "heading" }, h("h2", null, `${name} log`),
      checkpoint ? pill("good", "cosigned") : pill("bad", "not verified")),
    h("p", { class: "muted" }, about),
    checkpoint ? facts(
      ["Origin", h("code", null, checkpoint.origin)],
      ["Tree size", count(checkpoint.size)],
      ["Root hash", hash(checkpoint.root_hash, "root hash")]) : null,
    more,
    policy?.no_quorum ? banner("warn", h("p", null, "Its policy asks for no witness: a split view would not show.")) : null,
    h("h3", null, "Witnesses"),
    h("ul", { class: "witnesses" }, (policy?.witnesses ?? []).map((w) =>
      h("li", { class: signed.has(w) ? "ok" : "" }, icon(signed.has(w) ? "check" : "dot"), h("span", null, w),
        h("span", { class: "muted" }, signed.has(w) ? ["cosigned ", ago(signed.get(w) * 1000)] : "no cosignature here")))));
}

function nodeCard(nodes) {
  return h("section", { class: "card" },
    h("h2", null, "Nodes"),
    nodes.length === 0 ? h("p", { class: "muted" }, "No node is a member yet.") :
      h("div", { class: "scroll" }, h("table", null,
        h("thead", null, h("tr", null, ["Node", "State", "Trust level", "Labels", "Says of itself", "Attested", "Diverged"].map((t) => h("th", { scope: "col" }, t)))),
        h("tbody", null, nodes.map((n) => h("tr", null,
          h("th", { scope: "row" }, n.id, n.name ? h("span", { class: "muted block" }, n.name) : null),
          h("td", null, nodeState(n)),
          h("td", null, String(n.trustLevel ?? 0)),
          h("td", null, labels(n.labels)),
          h("td", { class: "muted" }, info(n.info)),
          h("td", { class: "number" }, count(n.executionsAttested)),
          h("td", null, divergence(n))))))),
    h("p", { class: "muted small" }, "What a node says of itself is information, not proof."));
}

// nodeState says whether a node works. What is not well the node says itself, in
// codes; docs/runbooks/a-node-is-not-well.md has what to do about each.
function nodeState(n) {
  const problems = n.status?.problems ?? [];
  if (!n.connected) return pill("plain", "away");
  if (problems.length) return [pill("bad", "not well"), h("span", { class: "muted block" }, problems.join(", ").replaceAll("_", " "))];
  return n.status?.draining ? pill("wait", "draining") : pill("good", "connected");
}

// divergence is what a node said that others, or it itself, contradict.
function divergence(n) {
  const differed = Number(n.executionsDiffered ?? 0), disputed = Number(n.executionsDisputed ?? 0);
  if (differed + disputed === 0) return h("span", { class: "muted" }, "never");
  return [differed ? pill("bad", `${count(differed)} differ`) : null, disputed ? pill("plain", `${count(disputed)} disputed`) : null];
}

function labels(found) {
  const list = Object.entries(found ?? {});
  return list.length ? h("span", { class: "tags" }, list.map(([k, v]) => h("span", { class: "tag" }, `${k}=${v}`))) : h("span", { class: "muted" }, "none");
}

function info(i) {
  if (!i) return "";
  const measures = i.isolation ?? [];
  return [
    [[i.engine, i.architecture].filter(Boolean).join(", "), i.softwareVersion].filter(Boolean).join(" · "),
    measures.length ? h("details", null, h("summary", null, `${measures.length} isolation measures`), measures.join(", ").replaceAll("_", " ")) : null,
  ];
}
