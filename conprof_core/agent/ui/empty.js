// What to say when there is nothing to show, and what to do next.
import { h } from "./dom.js";
import * as format from "./format.js";
import { set, state } from "./state.js";

/** Nothing was ever uploaded, or nothing in the range that is shown. */
export function nothingStored(lastSeen) {
  if (lastSeen) {
    return h("div", { class: "empty" },
      h("h2", {}, "Nothing in this range"),
      h("p", {}, `The last upload, of ${lastSeen.name}, was at ${format.moment(lastSeen.last_ms)}.`),
      h("button", {
        class: "primary",
        onclick: () => set({ service: lastSeen.name, end: lastSeen.last_ms + 60000, from: null, to: null }),
      }, "Show that time"));
  }
  const address = `tcp://${location.host}`;
  const block = (title, ...lines) => h("div", {}, h("h3", {}, title), h("pre", {}, lines.join("\n")));
  return h("div", { class: "empty" },
    h("h2", {}, "Waiting for the first profile"),
    h("p", {}, "The agent runs and listens. An application appears here as soon as it uploads its first window."),
    block("Python, with conprof", `BLACKFIRE_AGENT_SOCKET=${address} \\`, "  conprof run -- gunicorn shop.wsgi"),
    block("Any probe of the Blackfire Agent", `BLACKFIRE_AGENT_SOCKET=${address}`),
    block("A Datadog tracer", `DD_TRACE_AGENT_URL=${location.origin} DD_PROFILING_ENABLED=true`),
    h("p", { class: "note" }, "Just looking? ", h("code", {}, "conprof demo"), " brings three applications with traffic."));
}

export function nothingSelected() {
  const filters = state.labels.length > 0;
  return h("div", { class: "empty small" },
    h("h2", {}, "Nothing in this selection"),
    h("p", {}, filters ? "No sample has all of these labels." : "No sample of this type lies in the selected range."),
    h("div", { class: "choices" },
      filters && h("button", { class: "primary", onclick: () => set({ labels: [] }) }, "Remove the filters"),
      state.from !== null && h("button", { class: "quiet", onclick: () => set({ from: null, to: null }) }, "Select the whole range")));
}
