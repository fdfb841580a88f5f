// The first view: what each route costs. The same table serves any other label.
import * as api from "./api.js";
import { category, isDark } from "./colors.js";
import { fill, h } from "./dom.js";
import * as format from "./format.js";
import { growth } from "./growth.js";
import { selected, set, state, withLabel } from "./state.js";
import { shareBar, Table } from "./table.js";
import { coveredShare } from "./timeline.js";

export function routesView(shared) {
  let answer = null;
  const by = h("select", {
    class: "picker", "aria-label": "Group by",
    onchange: () => set({ by: by.value, sort: "" }),
  });
  const note = h("span", { class: "note" });
  const grew = h("button", {
    class: "quiet", title: "What leaks? The end of the range against its beginning",
    onclick: () => {
      const ends = growth(shared.series(answer.by), selected());
      set({ ...ends, view: "diff", measure: "rate" });
    },
  }, "What grew?");
  const box = h("div");
  const element = h("section", { class: "view", "aria-label": "Routes" },
    h("div", { class: "toolbar" }, h("label", { class: "field" }, "By", by), grew, h("span", { class: "grow" }), note), box);
  let table = null;

  function columns() {
    const unit = answer.unit;
    const name = format.keyName(answer.by);
    const what = format.isTime(unit) ? format.typeName(state.type).replace(" time", "") : format.typeName(state.type);
    const hasRequests = answer.rows.some((row) => row.per_request !== null);
    const list = [
      {
        key: "value", title: name, value: (r) => r.value, class: "name",
        cell: (r) => [h("i", { class: "dot", style: { background: colourOf(r.value) } }), h("span", {
          class: r.value ? "mono" : "faint", title: r.value || (answer.by === "http.route" ? "Outside of requests, or before the route was known" : null),
        }, r.value || `no ${name.toLowerCase()}`)],
      },
      {
        key: "share", title: "Share", numeric: true, value: (r) => r.share, hint: "Part of everything selected",
        cell: (r) => shareBar(r.share, format.percent(r.share)),
      },
    ];
    if (hasRequests) {
      list.push({
        key: "per_request", title: `${what} per request`, numeric: true, value: (r) => r.per_request,
        hint: "Total divided by the requests that the probe counted", cell: (r) => h("b", {}, format.amount(r.per_request, unit)),
      }, {
        key: "requests", title: "Requests", numeric: true, value: (r) => r.requests,
        cell: (r) => (r.requests === null ? "–" : r.requests.toLocaleString("en").replaceAll(",", "\u2009")),
      });
    }
    if (!answer.instant) {
      list.push({
        key: "per_second", title: `${what} per second`, numeric: true, value: (r) => r.per_second,
        hint: "Total divided by the time that uploads cover", cell: (r) => format.rate(r.per_second, unit),
      });
    }
    list.push(
      {
        key: "p95", title: "p95 of windows", numeric: true, value: (r) => r.p95,
        hint: "95 of 100 windows of a process in which it ran at all stay below this",
        cell: (r) => format.rate(r.p95, unit, answer.instant),
      },
      { key: "total", title: answer.instant ? "Average" : "Total", numeric: true, value: (r) => r.total, cell: (r) => format.amount(r.total, unit) },
      { key: "trend", title: "Trend", hint: "Over the time that uploads cover", cell: (r) => spark(r.value), class: "spark-cell" },
    );
    return list;
  }

  function colourOf(value) {
    const lines = shared.series(answer.by)?.lines;
    const n = lines ? lines.findIndex((line) => line.value === value) : -1;
    return category(n < 0 ? 9 : n, isDark());
  }

  function spark(value) {
    const series = shared.series(answer.by);
    const line = series?.lines.find((each) => each.value === value);
    if (!line) return "";
    // A bucket that is hardly covered, as the newest one often is, would show as a drop.
    const values = line.values.filter((_, i) => coveredShare(series, i) >= 0.5);
    if (values.length < 2) return "";
    const peak = Math.max(...values) || 1;
    const width = 96;
    const points = values.map((v, i) =>
      `${((i / (values.length - 1)) * (width - 2) + 1).toFixed(1)},${(21 - (v / peak) * 19).toFixed(1)}`);
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", `0 0 ${width} 22`);
    svg.setAttribute("class", "spark");
    svg.setAttribute("aria-hidden", "true");
    const path = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
    path.setAttribute("points", points.join(" "));
    path.style.stroke = colourOf(value);
    svg.append(path);
    return svg;
  }

  function draw() {
    if (!answer) return;
    const wanted = columns();
    const next = new Table(wanted, {
      label: `${format.typeName(state.type)} by ${format.keyName(answer.by)}`,
      sort: wanted.some((c) => c.key === state.sort.replace(/^-/, "")) ? state.sort : "-share",
      onSort: (sort) => set({ sort }, { replace: true, quiet: true }),
      onRow: (row) => set({ labels: withLabel(state.labels, answer.by, [row.value]), view: "flame", zoom: "", focus: "" }),
      empty: "Nothing in this selection. Widen the range, or remove a filter.",
    });
    next.setRows(answer.rows);
    table = next.replace(box, table);
    grew.hidden = !answer.instant || !answer.rows.length;
    const many = answer.distinct === 1 ? "1 row" : `${answer.distinct ?? 0} rows`;
    note.textContent = answer.rows.length
      ? `${format.amount(answer.total, answer.unit)} ${answer.instant ? "on average over" : "in"} ${format.duration(answer.covered_s)} covered by uploads · ${many}` : "";
  }

  return {
    element,
    async load() {
      const [rows, keys] = await Promise.all([api.table(state.by), api.labels()]);
      answer = rows;
      const names = [...new Set(["http.route", state.by, ...keys.labels.map((l) => l.key)])];
      fill(by, names.map((key) => h("option", { value: key, selected: key === state.by }, format.keyName(key))));
      draw();
    },
    redraw: draw,
  };
}
