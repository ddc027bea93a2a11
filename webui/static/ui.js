// Small building blocks of the page. Text from anywhere is only ever set as
// text: nothing on this page parses HTML.

// h makes an element. Properties named on… are listeners, class and the rest
// are attributes; null and false leave an attribute out. Children are nodes,
// text, or lists of them; null and false are left out.
export function h(tag, props, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  add(element, children);
  return element;
}

function add(element, children) {
  for (const child of children) {
    if (child === null || child === undefined || child === false) continue;
    if (Array.isArray(child)) add(element, child);
    else element.append(child);
  }
}

const svgNamespace = "http://www.w3.org/2000/svg";
const paths = {
  check: "M4 10.500l4 4 8-9",
  cross: "M5 5l10 10M15 5L5 15",
  dot: "M10 7.500a2.500 2.500 0 1 0 0 5a2.500 2.500 0 1 0 0-5",
  wait: "M10 3.500a6.500 6.500 0 1 0 0 13a6.500 6.500 0 1 0 0-13M10 7v3.200l2 1.300",
  copy: "M7 7h8v9H7zM5 13V4h8",
};

// icon draws one of the paths above. It is decoration: words stand beside it.
export function icon(name, className = "") {
  const svg = document.createElementNS(svgNamespace, "svg");
  svg.setAttribute("viewBox", "0 0 20 20");
  svg.setAttribute("class", `icon ${className}`);
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(svgNamespace, "path");
  path.setAttribute("d", paths[name]);
  svg.append(path);
  return svg;
}

// replace puts new content into an element.
export function replace(element, ...content) {
  element.replaceChildren();
  add(element, content);
}

// hash shows a digest in short, with the whole of it to copy.
export function hash(text, label = "digest") {
  if (!text) return h("span", { class: "muted" }, "none");
  const short = text.length > 22 ? `${text.slice(0, 10)}…${text.slice(-8)}` : text;
  const button = h("button", { type: "button", class: "copy", "aria-label": `Copy ${label}`, title: "Copy" }, icon("copy"));
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      button.replaceChildren(icon("check"));
      setTimeout(() => button.replaceChildren(icon("copy")), 1200);
    } catch {
      getSelection().selectAllChildren(code);
    }
  });
  const code = h("code", { title: text }, short);
  return h("span", { class: "hash" }, code, button);
}

// facts is a list of names and values.
export function facts(...pairs) {
  return h("dl", { class: "facts" }, pairs.filter(Boolean).map(([name, value]) =>
    h("div", null, h("dt", null, name), h("dd", null, value))));
}

export function pill(kind, text) {
  const marks = { good: "check", bad: "cross", wait: "wait", plain: "dot" };
  return h("span", { class: `pill ${kind}` }, icon(marks[kind] ?? "dot"), text);
}

export function banner(kind, ...content) {
  return h("div", { class: `banner ${kind}`, role: kind === "bad" ? "alert" : null }, content);
}

const states = {
  EXECUTION_STATE_OPEN: ["wait", "open"],
  EXECUTION_STATE_COMPLETE: ["good", "complete"],
  EXECUTION_STATE_DIVERGED: ["bad", "diverged"],
  EXECUTION_STATE_CANCELLED: ["plain", "cancelled"],
  EXECUTION_STATE_EXPIRED: ["bad", "expired"],
};

export const stateName = (state) => (states[state] ?? ["plain", "unknown"])[1];
export const statePill = (state) => pill(...(states[state] ?? ["plain", "unknown"]));

// outcomeName says how a module ended; "" if nothing has been agreed.
export const outcomeName = (o) => (o?.kind ? o.kind.replaceAll("_", " ") + (o.exitCode ? `, code ${o.exitCode}` : "") : "");

// outcomePill marks an agreed outcome that is not success; null for one that is.
export const outcomePill = (o) => (o?.kind && o.kind !== "ok" ? pill("wait", outcomeName(o)) : null);

const relative = new Intl.RelativeTimeFormat("en", { numeric: "auto" });

// ago shows a time in milliseconds since the epoch.
export function ago(ms) {
  if (!ms) return h("span", { class: "muted" }, "unknown");
  const seconds = Math.round((ms - Date.now()) / 1000);
  const exact = { datetime: new Date(ms).toISOString(), title: new Date(ms).toLocaleString() };
  if (Math.abs(seconds) < 5) return h("time", exact, "just now");
  const [unit, size] = [["second", 1], ["minute", 60], ["hour", 3600], ["day", 86400]]
    .filter(([, s]) => Math.abs(seconds) >= s || s === 1).at(-1);
  return h("time", exact, relative.format(Math.round(seconds / size), unit));
}

const number = new Intl.NumberFormat("en");
export const count = (n) => number.format(Number(n ?? 0));

export function bytes(n) {
  n = Number(n ?? 0);
  if (n < 1024) return `${n} B`;
  const units = ["KiB", "MiB", "GiB"];
  let i = -1;
  do { n /= 1024; i++; } while (n >= 1024 && i < units.length - 1);
  return `${n.toFixed(n < 10 ? 1 : 0)} ${units[i]}`;
}

// steps shows what was checked, one line a step.
export function steps(list) {
  return h("ol", { class: "steps" }, list.map((s) =>
    h("li", { class: s.ok ? "ok" : "failed" },
      icon(s.ok ? "check" : "cross"),
      h("div", null,
        h("p", { class: "title" }, h("span", { class: "sr" }, s.ok ? "Passed: " : "Failed: "), sentence(s.title)),
        h("p", { class: "detail" }, s.detail)))));
}

export const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);

// save hands bytes to the user as a file.
export function save(data, name, type = "application/octet-stream") {
  const url = URL.createObjectURL(new Blob([data], { type }));
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
