// Label filters: a chip for each, and a panel that offers keys and values with their shares.
import * as api from "./api.js";
import { fill, h } from "./dom.js";
import * as format from "./format.js";
import { menu } from "./menu.js";
import { set, splitLabel, state, withLabel } from "./state.js";

export function filterBar() {
  const chips = h("span", { class: "chips" });
  const element = h("div", { class: "filters" },
    chips, menu("+ Filter", (close) => panel(close), { className: "quiet add-filter" }));
  return {
    element,
    update() {
      const keys = new Map();
      for (const label of state.labels) {
        const { key, value, negated } = splitLabel(label);
        const id = `${negated ? "!" : ""}${key}`;
        keys.set(id, { key, negated, values: [...(keys.get(id)?.values ?? []), value] });
      }
      fill(chips, [...keys.values()].map(chip));
    },
  };
}

function chip({ key, negated, values }) {
  return h("span", { class: "chip" },
    h("span", { class: "chip-key" }, format.keyName(key)),
    h("button", {
      class: "chip-sign", title: "Turn around: only these, or all but these",
      onclick: () => set({ labels: withLabel(state.labels, key, values, !negated), zoom: "" }),
    }, negated ? "≠" : "="),
    h("span", { class: "chip-value" }, values.map((v) => v || "none").join(", ")),
    h("button", {
      class: "chip-x", "aria-label": `Remove the filter on ${key}`,
      onclick: () => set({ labels: withLabel(state.labels, key, []), zoom: "" }),
    }, "×"));
}

async function panel(close) {
  let found;
  try {
    found = (await api.labels()).labels;
  } catch (error) {
    return h("p", { class: "note" }, error.message);
  }
  if (!found.length) return h("p", { class: "note" }, "Nothing in this range has a label.");
  const values = h("div", { class: "values", role: "listbox", "aria-multiselectable": "true" });
  const search = h("input", { type: "search", placeholder: "Find a value", "aria-label": "Find a value" });
  let current = found[0];
  const show = () => {
    const chosen = new Set(state.labels.map(splitLabel)
      .filter((l) => l.key === current.key).map((l) => l.value));
    const low = search.value.toLowerCase();
    const rows = current.values.filter((v) => v.value.toLowerCase().includes(low));
    fill(values,
      rows.map((v) => h("button", {
        class: "value", role: "option", "aria-selected": String(chosen.has(v.value)),
        onclick: () => {
          if (chosen.has(v.value)) chosen.delete(v.value);
          else chosen.add(v.value);
          set({ labels: withLabel(state.labels, current.key, [...chosen]), zoom: "" });
          show();
        },
      }, h("span", { class: "tick" }, chosen.has(v.value) ? "✓" : ""),
        h("span", { class: "value-name" }, v.value || "none"),
        h("span", { class: "value-share" }, format.percent(v.share)))),
      !rows.length && h("p", { class: "note" }, "No such value."),
      current.distinct > current.values.length
        && h("p", { class: "note" }, `The largest ${current.values.length} of ${current.distinct}.`));
  };
  const keys = h("div", { class: "keys" });
  const showKeys = () => fill(keys, found.map((entry) => h("button", {
    class: "item", "aria-pressed": String(entry === current),
    onclick: () => {
      current = entry;
      search.value = "";
      showKeys();
      show();
    },
  }, h("span", { class: "key-name", title: entry.key }, format.keyName(entry.key)),
    h("span", { class: "count" }, entry.distinct))));
  search.addEventListener("input", show);
  search.addEventListener("keydown", (e) => {
    if (e.key === "Enter") {
      values.querySelector("button")?.click();
      close();
    }
  });
  showKeys();
  show();
  return h("div", { class: "filter-panel" }, keys, h("div", {}, search, values));
}
