// Buttons that open a small panel; one at a time, closed by Escape or a click elsewhere.
import { h } from "./dom.js";

let open = null;

function close() {
  if (!open) return;
  open.panel.remove();
  open.button.setAttribute("aria-expanded", "false");
  open = null;
}

addEventListener("pointerdown", (e) => {
  if (open && !open.panel.contains(e.target) && !open.button.contains(e.target)) close();
});
addEventListener("keydown", (e) => {
  if (e.key === "Escape" && open) {
    const { button } = open;
    close();
    button.focus();
    e.stopPropagation();
  }
}, true);

/** A button with a panel; `content(close)` gives its elements each time it opens. */
export function menu(label, content, { title = null, className = "quiet" } = {}) {
  const button = h("button", { class: className, "aria-haspopup": "true", "aria-expanded": "false", title }, label);
  const box = h("span", { class: "menu" }, button);
  button.addEventListener("click", async () => {
    const wasOpen = open?.button === button;
    close();
    if (wasOpen) return;
    const panel = h("div", { class: "panel-menu" }, await content(close));
    box.append(panel);
    const over = panel.getBoundingClientRect().right - innerWidth + 8;
    if (over > 0) panel.style.marginLeft = `${-over}px`;
    button.setAttribute("aria-expanded", "true");
    open = { panel, button };
    panel.querySelector("input, button, select")?.focus();
  });
  return box;
}

export const item = (label, onclick, pressed = null) =>
  h("button", { class: "item", onclick, "aria-pressed": pressed }, label);
