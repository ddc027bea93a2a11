// Start, sign-in and routes. A route is the fragment: #/, #/executions,
// #/executions/<id>, #/check, #/trust.

import { Refusal } from "./api.js";
import * as session from "./session.js";
import { banner, h, replace } from "./ui.js";
import { overview } from "./views/overview.js";
import { executions } from "./views/executions.js";
import { execution } from "./views/execution.js";
import { check } from "./views/check.js";
import { view as trust } from "./views/trust.js";

const main = document.getElementById("main");
const dialog = document.getElementById("signin");
const field = document.getElementById("signin-token");
const problem = document.getElementById("signin-error");

const routes = [
  { pattern: /^#\/$/, view: overview, name: "overview", title: "Overview", signedIn: true },
  { pattern: /^#\/executions$/, view: executions, name: "executions", title: "Executions", signedIn: true },
  { pattern: /^#\/executions\/([0-9a-f]{64})$/, view: execution, name: "executions", title: "Execution", signedIn: true },
  { pattern: /^#\/check$/, view: check, name: "check", title: "Check a proof" },
  { pattern: /^#\/trust$/, view: trust, name: "trust", title: "What this page trusts" },
];

let leaving = new AbortController(); // of the view that is shown

async function show() {
  leaving.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  const hash = location.hash || "#/";
  const route = routes.find((r) => r.pattern.test(hash));
  for (const link of document.querySelectorAll("nav a")) {
    if (link.dataset.view === route?.name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${route?.title ?? "Not found"} · tallystick`;
  scrollTo(0, 0);
  if (!route) {
    replace(main, h("h1", null, "There is nothing here"), h("p", null, h("a", { href: "#/" }, "Go to the overview")));
    return;
  }
  if (route.signedIn && !session.token()) {
    replace(main, welcome());
    return;
  }
  replace(main, h("p", { class: "loading", role: "status" }, route.signedIn ? "Asking the control plane…" : "Starting the verifier…"));
  try {
    const content = await route.view({ id: hash.match(route.pattern)[1], signal, refresh: show });
    if (!signal.aborted) replace(main, content);
  } catch (error) {
    if (!signal.aborted) replace(main, failure(error));
  }
}

function welcome() {
  return h("section", { class: "welcome" },
    h("h1", null, "Nobody has to trust the server"),
    h("p", { class: "lead" }, "This page asks a control plane for its cluster, its executions and their proofs, " +
      "and verifies what it is told with the verifier itself, here in your browser."),
    h("div", { class: "actions" },
      h("button", { type: "button", class: "primary", onclick: signIn }, "Use a token"),
      h("a", { class: "button", href: "#/check" }, "Check a proof file")),
    h("p", { class: "muted" }, "Checking a file needs no token and sends nothing anywhere."));
}

function failure(error) {
  if (error instanceof Refusal && error.unauthenticated) {
    return h("section", { class: "welcome" },
      h("h1", null, error.code === "token_expired" ? "Your token has expired" : "The server did not accept the token"),
      h("p", { class: "lead" }, error.message),
      h("div", { class: "actions" }, h("button", { type: "button", class: "primary", onclick: signIn }, "Use another token")));
  }
  return [
    h("h1", null, "That did not work"),
    banner("bad", h("p", null, error.message), error.code ? h("p", { class: "muted" }, "Code: ", h("code", null, error.code)) : null),
    h("p", null, h("button", { type: "button", onclick: show }, "Try again")),
  ];
}

function showWho() {
  const who = document.getElementById("who");
  const claims = session.claims();
  if (!claims) {
    replace(who, h("button", { type: "button", onclick: signIn }, "Use a token"));
    return;
  }
  replace(who,
    h("span", { class: "principal", title: `Token valid until ${new Date(claims.expires).toLocaleTimeString()}` }, claims.principal),
    h("button", { type: "button", class: "quiet", onclick: () => { session.clear(); showWho(); show(); } }, "Forget token"));
}

function signIn() {
  problem.textContent = "";
  field.value = "";
  dialog.showModal();
  field.focus();
}

document.getElementById("signin-cancel").addEventListener("click", () => dialog.close());
document.getElementById("signin-form").addEventListener("submit", (event) => {
  event.preventDefault();
  try {
    session.set(field.value);
  } catch (error) {
    problem.textContent = error.message;
    return;
  }
  field.value = "";
  dialog.close();
  showWho();
  show();
});
document.getElementById("skip").addEventListener("click", () => main.focus());

addEventListener("hashchange", () => {
  if (location.hash.startsWith("#token=")) session.takeFromAddress();
  showWho();
  show();
});
session.takeFromAddress();
showWho();
show();
