// Two selections beside each other: an earlier range, or another value of a label.
import * as api from "./api.js";
import { changeColour, isDark } from "./colors.js";
import { functionsTable, labelsTable, part } from "./diff_tables.js";
import { announce, fill, h } from "./dom.js";
import * as format from "./format.js";
import { growth } from "./growth.js";
import { selected, set, splitLabel, state, withLabel } from "./state.js";
import { flameView } from "./view_flame.js";

export function diffView(shared) {
  let answer = null;
  let sides = null; // the tables by label of both sides, or null
  let keys = [];
  const head = h("div", { class: "toolbar compare" });
  const functionsBox = h("div");
  const labelsBox = h("div");
  const flame = flameView({
    load: async () => (answer = await api.diff(state.base)),
    compare: (a) => ({ scales: scalesOf(a), show: showScaled(a) }),
    legend: () => [
      [[-1, "less than the baseline"], [0, "as before"], [1, "more"]].map(([change, what]) =>
        h("span", {}, h("i", { class: "swatch", style: { background: changeColour(change, isDark()) } }), what)),
      h("span", { class: "faint" }, "width: both sides together"),
    ],
    label: "Difference",
  });
  const full = h("div", {}, labelsBox, flame.element, functionsBox);
  const body = h("div");
  const element = h("section", { class: "view", "aria-label": "Compare" }, head, body);

  function scalesOf(a) {
    if (state.measure === "share") return [1 / (a.total || 1), 1 / (a.base_total || 1)];
    if (a.instant) return [1, 1];
    return [1 / (a.covered_s || 1), 1 / (a.base.covered_s || 1)];
  }

  function showScaled(a) {
    return state.measure === "share" ? format.percent : (v) => format.rate(v, a.unit, a.instant);
  }

  function previous() {
    const [from, to] = selected();
    set({ base: { from: from - (to - from), to: from }, from, to });
  }

  function dayBefore() {
    const [from, to] = selected();
    set({ base: { from: from - 86400000, to: to - 86400000 }, from, to });
  }

  function grown() {
    const ends = growth(shared.series(state.by), selected());
    if (ends) set({ ...ends, measure: "rate" });
    else announce("No window in this range");
  }

  const isState = () => Boolean(shared.series(state.by)?.instant);
  const choose = () => h("div", { class: "empty small" },
    h("h2", {}, "Compare with what?"),
    h("p", {}, "Hold Shift and drag on the timeline, or choose here:"),
    h("div", { class: "choices" },
      isState() && h("button", { class: "primary", onclick: grown }, "What grew in this range"),
      h("button", { class: isState() ? "quiet" : "primary", onclick: previous }, "The range before this one"),
      h("button", { class: "quiet", onclick: dayBefore }, "Same time yesterday")));
  const nothing = () => h("div", { class: "empty small" },
    h("h2", {}, "Nothing on either side"),
    h("p", {}, state.labels.length
      ? "No sample with these labels lies in the selection or in the baseline."
      : "No window lies in the selection or in the baseline: their middles count. Choose longer ranges."),
    h("div", { class: "choices" },
      h("button", { class: "primary", onclick: () => set({ base: null, from: null, to: null }) }, "Choose again")));

  function labelPicker() {
    const many = keys.filter((l) => l.values.length > 1);
    const key = h("select", { class: "picker", "aria-label": "Label to compare by" });
    const left = h("select", { class: "picker", "aria-label": "Baseline value" });
    const right = h("select", { class: "picker", "aria-label": "Selected value" });
    const chosen = state.labels.map(splitLabel);
    const showValues = (baseValue, ownValue) => {
      const values = many.find((l) => l.key === key.value)?.values ?? [];
      const options = (picked) => values.map((v) => h("option", { value: v.value, selected: v.value === picked }, v.value || "none"));
      fill(left, h("option", { value: "\0" }, "baseline …"), options(baseValue));
      fill(right, h("option", { value: "\0" }, "selection …"), options(ownValue));
    };
    fill(key, h("option", { value: "" }, "two values of a label …"),
      many.map((l) => h("option", { value: l.key, selected: l.key === state.base?.key }, format.keyName(l.key))));
    const apply = () => {
      if (left.value === "\0" || right.value === "\0" || !key.value) return;
      set({ base: { key: key.value, value: left.value }, labels: withLabel(state.labels, key.value, [right.value]) });
    };
    const own = chosen.find((l) => l.key === state.base?.key)?.value;
    showValues(state.base?.value, own);
    left.hidden = right.hidden = !key.value;
    key.addEventListener("change", () => {
      left.hidden = right.hidden = !key.value;
      showValues(null, null);
    });
    left.addEventListener("change", apply);
    right.addEventListener("change", apply);
    return [key, left, right];
  }

  function drawHead() {
    const measure = h("select", {
      class: "picker", "aria-label": "Compare by",
      onchange: () => set({ measure: measure.value }, { replace: true }),
    }, h("option", { value: "rate", selected: state.measure === "rate" }, isState() ? "average" : "per second"),
      h("option", { value: "share", selected: state.measure === "share" }, "share of the total"));
    fill(head,
      isState() && h("button", { class: "quiet", onclick: grown, title: "The end of the range against its beginning" }, "What grew"),
      h("button", { class: "quiet", onclick: previous }, "Previous range"),
      h("button", { class: "quiet", onclick: dayBefore }, "Yesterday"),
      labelPicker(), h("span", { class: "grow" }), measure,
      state.base && h("button", { class: "quiet", onclick: () => set({ base: null }) }, "Clear"));
  }

  const side = (title, what, value, className) => h("div", { class: `side ${className}` },
    h("span", { class: "side-title" }, title), h("span", { class: "side-what" }, what), h("b", {}, value));

  function summary() {
    const text = showScaled(answer);
    const scales = scalesOf(answer);
    const now = answer.total * scales[0];
    const before = answer.base_total * scales[1];
    const [from, to] = selected();
    const nameOf = (base) => (base.from ? format.range(base.from, base.to) : `${format.keyName(base.key)} ${base.value || "none"}`);
    const own = state.base.key ? state.labels.map(splitLabel).find((l) => l.key === state.base.key) : null;
    const difference = format.signed(text(Math.abs(now - before)), now - before);
    return h("div", { class: "versus" },
      side("Baseline", nameOf(state.base), text(before), "base"),
      side("Selection", own ? nameOf(own) : format.range(from, to), text(now), "accent"),
      h("div", { class: "side" }, h("span", { class: "side-title" }, answer.instant ? "Growth" : "Change"),
        h("span", { class: "side-what" }, before ? difference : "nothing in the baseline"),
        before > 0 && h("b", { class: now > before ? "more" : "fewer" }, format.signed(format.percent(Math.abs(now / before - 1)), now - before))));
  }

  function drawTables() {
    const text = showScaled(answer);
    const scales = scalesOf(answer);
    const verb = answer.instant ? "grew" : "changed";
    fill(functionsBox, part(`Functions that ${verb} most`, null,
      functionsTable(flame.tree(), scales, text, answer.instant, (row) => set({ focus: `${row.function}\u0001${row.file}` }))));
    if (!sides) {
      fill(labelsBox);
      return;
    }
    const by = h("select", { class: "picker", "aria-label": "Changes by", onchange: () => set({ by: by.value }) },
      [...new Set(["http.route", state.by, ...keys.map((l) => l.key)])].filter((key) => key !== state.base.key)
        .map((key) => h("option", { value: key, selected: key === state.by }, format.keyName(key))));
    fill(labelsBox, part(`What ${verb} most`, h("label", { class: "field" }, "by", by),
      labelsTable(...sides, scales, text, answer.instant,
        (row) => set({ labels: withLabel(state.labels, state.by, [row.value]), zoom: "", focus: "" }))));
  }

  function draw() {
    if (!state.base || !answer) return;
    if (!answer.total && !answer.base_total) {
      fill(body, nothing());
      return;
    }
    fill(body, summary(), full);
    drawTables();
  }

  return {
    element,
    async load() {
      keys = (await api.labels()).labels;
      drawHead();
      if (!state.base) {
        answer = null;
        fill(body, choose());
        return;
      }
      const grouped = state.base.key === state.by ? [] : [api.table(state.by), api.table(state.by, state.base)];
      const [, ...tables] = await Promise.all([flame.load(), ...grouped]);
      sides = tables.length ? tables : null;
      draw();
    },
    redraw() {
      if (answer) flame.redraw();
      draw();
    },
    focusSearch: flame.focusSearch,
    toggleInvert: flame.toggleInvert,
    graph: flame.graph,
  };
}
