// What the keyboard does, in a dialog.
import { h } from "./dom.js";

const KEYS = [
  ["1 … 4", "routes, flame graph, top functions, compare"],
  ["/", "search functions"],
  ["i", "invert the flame graph"],
  ["arrows", "walk: in the flame graph, the tables, the timeline"],
  ["Enter", "zoom to the frame, open the row"],
  ["s, double click", "callers and callees of a function"],
  ["Ctrl + wheel", "zoom around the pointer"],
  ["drag, Shift + drag", "on the timeline: select, choose a baseline"],
  ["Escape", "back: zoom, sandwich, selection"],
  ["t", "light, dark, as the system"],
  ["?", "this list"],
];

export function showHelp() {
  const known = document.querySelector("dialog");
  if (known) {
    known.close();
    return;
  }
  const dialog = h("dialog", { class: "help", "aria-label": "Keyboard" },
    h("h2", {}, "Keyboard"),
    h("table", {}, KEYS.map(([key, what]) => h("tr", {}, h("th", {}, h("kbd", {}, key)), h("td", {}, what)))),
    h("button", { class: "quiet", onclick: () => dialog.close() }, "Close"));
  dialog.addEventListener("close", () => dialog.remove());
  dialog.addEventListener("click", (e) => e.target === dialog && dialog.close());
  document.body.append(dialog);
  dialog.showModal();
}
