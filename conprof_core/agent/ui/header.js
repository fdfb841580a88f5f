// The bar on top: what is looked at, and when. Service, type, range, theme, link, export.
import * as api from "./api.js";
import { announce, fill, h } from "./dom.js";
import * as format from "./format.js";
import { item, menu } from "./menu.js";
import { isLive, link, outer, selected, set, state } from "./state.js";

const SPANS = [
  [300, "5 min"], [900, "15 min"], [3600, "1 h"], [21600, "6 h"], [86400, "24 h"], [604800, "7 d"], [2592000, "30 d"],
];

export function header({ onTheme }) {
  const service = h("select", {
    class: "picker strong", "aria-label": "Service",
    onchange: () => set({ service: service.value, labels: [], zoom: "", focus: "", base: null }),
  });
  const type = h("select", {
    class: "picker", "aria-label": "Profile type", onchange: () => set({ type: type.value, zoom: "", focus: "" }),
  });
  const spans = h("span", { class: "segments", role: "group", "aria-label": "Time range" });
  const live = h("button", {
    class: "quiet live", title: "Follow the present",
    onclick: () => set(isLive() ? { end: Date.now() } : { end: null, from: null, to: null }),
  });
  const theme = h("button", { class: "quiet icon", onclick: onTheme });
  const element = h("header", { class: "top" },
    h("a", { class: "brand", href: "./", "aria-label": "conprof, start" }, mark(), "conprof"),
    service, type, h("span", { class: "grow" }), spans, live,
    h("span", { class: "pair" },
      h("button", { class: "quiet", onclick: copyLink, title: "Copy a link to exactly this view" }, "Copy link"),
      menu("Export", exports), theme));

  function update(services) {
    fill(service, services.map((s) => h("option", { value: s.name, selected: s.name === state.service }, s.name)));
    service.hidden = !services.length;
    const known = services.find((s) => s.name === state.service);
    const types = known?.types.filter((t) => t.total || t.name === state.type) ?? [];
    fill(type, types.map((t) => h("option", {
      value: t.name, selected: t.name === state.type, title: t.original,
    }, format.typeName(t.name, known.language))));
    type.hidden = !types.length;
    fill(spans, SPANS.map(([seconds, text]) => h("button", {
      class: "segment", "aria-pressed": String(state.span === seconds && state.from === null),
      onclick: () => set({ span: seconds, from: null, to: null, end: null }),
    }, text)));
    live.setAttribute("aria-pressed", String(isLive()));
    fill(live, h("i", { class: "pulse" }), isLive() ? "Live" : "Paused");
    const dark = document.documentElement.dataset.theme;
    fill(theme, dark === "dark" ? "☾" : dark === "light" ? "☀" : "◐");
    theme.setAttribute("aria-label", `Theme: ${dark ?? "as the system"}`);
    theme.title = `Theme: ${dark ?? "as the system"}`;
  }
  return { element, update };
}

async function copyLink() {
  const [from, to] = selected();
  const frozen = { ...state, from: isLive() ? null : from, to: isLive() ? null : to, end: outer()[1] };
  const address = new URL(link(frozen, { freeze: true }), location.href).href;
  try {
    await navigator.clipboard.writeText(address);
    announce("Link copied");
  } catch {
    history.replaceState(null, "", address);
    announce("The link is in the address bar");
  }
}

// An address goes into single quotes of a shell.
const quoted = (address) => address.replaceAll("'", "%27");

function exports(close) {
  const entry = (format_, title, what) => h("a", {
    class: "item", href: api.exportAddress(format_), download: "", onclick: () => close(),
  }, title, h("span", { class: "faint" }, what));
  const isDiff = state.view === "diff" && state.base;
  const base = isDiff ? `-diff_base '${quoted(api.exportAddress("pprof", state.base))}' ` : "";
  const command = `go tool pprof -http=: ${base}'${quoted(api.exportAddress("pprof"))}'`;
  return h("div", { class: "exports" },
    entry("pprof", "pprof", "go tool pprof, Parca, Pyroscope"),
    entry("speedscope", "speedscope", "speedscope.app"),
    entry("folded", "folded", "flamegraph.pl, inferno"),
    isDiff && h("p", { class: "note padded" }, "The files hold the selection; the command compares it with the baseline."),
    item("Copy the go tool pprof command", async () => {
      await navigator.clipboard.writeText(command).then(() => announce("Command copied"), () => announce(command));
      close();
    }));
}

function mark() {
  const NS = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(NS, "svg");
  svg.setAttribute("viewBox", "0 0 20 16");
  svg.setAttribute("aria-hidden", "true");
  for (const [y, width, name] of [[0, 20, "a"], [6, 13.5, "b"], [12, 7.5, "c"]]) {
    const bar = document.createElementNS(NS, "rect");
    for (const [key, value] of Object.entries({ x: 0, y, width, height: 4, rx: 1.3, class: `mark-${name}` })) bar.setAttribute(key, value);
    svg.append(bar);
  }
  return svg;
}
