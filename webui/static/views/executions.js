// The list of executions.

import { call } from "../api.js";
import { ago, banner, h, hash, outcomePill, replace, statePill } from "../ui.js";

const filters = [
  ["", "All"], ["EXECUTION_STATE_OPEN", "Open"], ["EXECUTION_STATE_COMPLETE", "Complete"],
  ["EXECUTION_STATE_DIVERGED", "Diverged"], ["EXECUTION_STATE_CANCELLED", "Cancelled"], ["EXECUTION_STATE_EXPIRED", "Expired"],
];

export async function executions({ signal, refresh }) {
  const contracts = await contractNames(signal);
  const list = h("div", null);
  const more = h("button", { type: "button", hidden: true }, "Show more");
  let state = "";
  let next = "";
  let shown = [];

  async function load() {
    const asked = state;
    const part = await call("Control/ListExecutions", { pageSize: 50, pageToken: next, ...(state ? { state } : {}) }, signal);
    if (asked !== state) return; // another filter was chosen meanwhile
    shown = shown.concat(part.executions ?? []);
    next = part.nextPageToken ?? "";
    replace(list, shown.length === 0 && state ? h("p", { class: "empty" }, "None in this state.") : executionTable(shown, contracts));
    more.hidden = next === "";
  }
  function reload() {
    more.disabled = true;
    load().catch((error) => {
      if (!signal.aborted) replace(list, banner("bad", h("p", null, error.message)));
    }).finally(() => { more.disabled = false; });
  }
  more.addEventListener("click", reload);
  const select = h("select", { id: "state" }, filters.map(([value, name]) => h("option", { value }, name)));
  select.addEventListener("change", () => {
    state = select.value;
    next = "";
    shown = [];
    reload();
  });
  await load();
  return [
    h("div", { class: "heading" }, h("h1", null, "Executions"),
      h("div", { class: "actions" }, h("label", { for: "state" }, "State"), select,
        h("button", { type: "button", onclick: refresh }, "Refresh"))),
    h("section", { class: "card" }, list, h("p", { class: "center" }, more)),
  ];
}

// contractNames maps contract hashes to what people call them.
export async function contractNames(signal) {
  const names = new Map();
  let pageToken = "";
  do {
    const part = await call("Control/ListContracts", { pageSize: 200, pageToken }, signal);
    for (const c of part.contracts ?? []) names.set(c.contractHash, `${c.name} ${c.version}`);
    pageToken = part.nextPageToken ?? "";
  } while (pageToken && names.size < 1000);
  return names;
}

export function executionTable(list, contracts) {
  if (list.length === 0) {
    return h("p", { class: "empty" }, "Nothing here yet. ", h("code", null, "tally submit"), " makes one.");
  }
  return h("div", { class: "scroll" }, h("table", { class: "links" },
    h("thead", null, h("tr", null, ["Execution", "State", "Contract", "Reports", "Submitted"].map((t) => h("th", { scope: "col" }, t)))),
    h("tbody", null, list.map((e) => {
      const reports = e.reports ?? [];
      const agree = reports.filter((r) => r.agrees).length;
      return h("tr", null,
        h("th", { scope: "row" }, h("a", { href: `#/executions/${e.executionId}` }, h("code", null, `${e.executionId.slice(0, 12)}…`))),
        h("td", null, h("span", { class: "tags" }, statePill(e.state), outcomePill(e.outcome))),
        h("td", null, contracts.get(e.contractHash) ?? hash(e.contractHash, "contract hash")),
        h("td", null, reports.length ? `${reports.length} of ${(e.assignedNodes ?? []).length}${agree ? `, ${agree} agree` : ""}` : h("span", { class: "muted" }, e.state === "EXECUTION_STATE_OPEN" ? "none yet" : "none")),
        h("td", null, ago(Number(e.submittedUnixMs))));
    }))));
}
