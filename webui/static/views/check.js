// A proof bundle from a file: checked here, sent nowhere.

import * as trust from "../trust.js";
import { banner, h, replace } from "../ui.js";
import { proof, trustLine } from "./verdict.js";

const maxBundle = 64 * 1024 * 1024; // of the format

export async function check({ signal }) {
  const relied = await trust.current();
  const result = h("div", null);
  const input = h("input", { type: "file", id: "bundle", class: "sr", accept: ".tallyproof" });
  const zone = h("label", { class: "drop", for: "bundle" },
    h("strong", null, "Drop a proof bundle here"), h("span", { class: "muted" }, "or choose a .tallyproof file"), input);

  async function take(file) {
    if (!file) return;
    if (file.size > maxBundle) {
      replace(result, banner("bad", h("p", null, "A proof bundle has at most 64 MiB; this file is larger.")));
      return;
    }
    const data = new Uint8Array(await file.arrayBuffer());
    replace(result, h("h2", { class: "file" }, file.name), proof(data, relied, { name: file.name }));
  }
  input.addEventListener("change", () => take(input.files[0]));
  const over = (on) => (event) => {
    event.preventDefault();
    zone.classList.toggle("over", on);
  };
  zone.addEventListener("dragover", over(true));
  zone.addEventListener("dragleave", over(false));
  zone.addEventListener("drop", (event) => {
    over(false)(event);
    take(event.dataTransfer.files[0]);
  });
  // A file that misses the zone must not navigate away.
  for (const name of ["dragover", "drop"]) addEventListener(name, (event) => event.preventDefault(), { signal });

  return [
    h("h1", null, "Check a proof"),
    h("p", { class: "lead" }, "A proof bundle is one file that proves how one execution ended. It is checked in this browser, " +
      "step by step, and sent nowhere."),
    h("section", { class: "card" }, h("h2", null, "Against what"), trustLine(relied), relied.problem ? banner("bad", h("p", null, relied.problem)) : null),
    zone, result,
  ];
}
