// A table that sorts, with bars behind shares, and rows that the keyboard can reach.
import { fill, h } from "./dom.js";

const CHUNK = 200;

/**
 * columns: {key, title, hint, value(row), cell(row) → node or text, numeric, first: "asc"|"desc"}.
 * options: sort ("key" or "-key"), onSort(sort), onRow(row), label, empty.
 */
export class Table {
  constructor(columns, options) {
    this.columns = columns;
    this.options = options;
    this.rows = [];
    this.sort = options.sort || `-${columns.find((c) => c.numeric)?.key ?? columns[0].key}`;
    this.head = h("tr");
    this.body = h("tbody");
    this.more = h("button", { class: "quiet more", onclick: () => this.show(this.shown + 5 * CHUNK) });
    this.table = h("table", { class: "table", "aria-label": options.label }, h("thead", {}, this.head), this.body);
    this.element = h("div", { class: "table-wrap" }, this.table, this.more);
    this.body.addEventListener("keydown", (e) => this.onKey(e));
    this.drawHead();
  }

  drawHead() {
    const key = this.sort.replace(/^-/, "");
    const down = this.sort.startsWith("-");
    fill(this.head, this.columns.map((c) =>
      h("th", {
        class: c.numeric ? "numeric" : c.class, scope: "col",
        "aria-sort": c.key === key ? (down ? "descending" : "ascending") : "none",
      },
      c.value
        ? h("button", { class: "sort", title: c.hint, onclick: () => this.sortBy(c) }, c.title,
          h("span", { class: "arrow", "aria-hidden": "true" }, c.key === key ? (down ? "↓" : "↑") : ""))
        : h("span", { title: c.hint }, c.title))));
  }

  sortBy(column) {
    const down = this.sort === `-${column.key}`;
    const up = this.sort === column.key;
    this.sort = down || (!up && !column.numeric) ? column.key : `-${column.key}`;
    this.options.onSort?.(this.sort);
    this.drawHead();
    this.setRows(this.rows);
  }

  setRows(rows) {
    const key = this.sort.replace(/^-/, "");
    const sign = this.sort.startsWith("-") ? -1 : 1;
    const column = this.columns.find((c) => c.key === key) ?? this.columns[0];
    this.rows = [...rows].sort((a, b) => sign * compare(column.value(a), column.value(b)));
    fill(this.body);
    this.shown = 0;
    this.show(CHUNK);
  }

  show(count) {
    const rows = this.rows.slice(this.shown, count);
    for (const row of rows) this.body.append(this.row(row));
    this.shown = Math.min(count, this.rows.length);
    const rest = this.rows.length - this.shown;
    this.more.hidden = rest <= 0;
    this.more.textContent = `Show more (${rest} left)`;
    if (!this.rows.length) {
      this.body.append(h("tr", {}, h("td", { colspan: this.columns.length, class: "none" }, this.options.empty)));
    }
  }

  row(row) {
    const element = h("tr", { tabindex: this.options.onRow ? 0 : null },
      this.columns.map((c) => h("td", { class: c.numeric ? "numeric" : c.class }, c.cell(row))));
    if (this.options.onRow) {
      element.addEventListener("click", (e) => {
        if (!e.target.closest("button") && !String(getSelection())) this.options.onRow(row);
      });
    }
    element.open = () => this.options.onRow?.(row);
    return element;
  }

  /**
   * Stand where another table stood, after newer data: as many rows, and the focus on the same one.
   * Returns itself, for the next time.
   */
  replace(box, old) {
    const focused = old?.body.contains(document.activeElement) ? document.activeElement.closest("tr") : null;
    const name = focused?.cells[0].textContent;
    if (old?.shown > this.shown) this.show(old.shown);
    fill(box, this.element);
    if (focused) [...this.body.rows].find((row) => row.cells[0].textContent === name)?.focus({ preventScroll: true });
    return this;
  }

  onKey(event) {
    const row = event.target.closest("tr");
    if (!row || event.target !== row) return;
    if (event.key === "Enter") row.open();
    else if (event.key === "ArrowDown") row.nextElementSibling?.focus();
    else if (event.key === "ArrowUp") row.previousElementSibling?.focus();
    else return;
    event.preventDefault();
  }
}

function compare(a, b) {
  if (a === b) return 0;
  if (a === null || a === undefined) return -1;
  if (b === null || b === undefined) return 1;
  if (typeof a === "string") return a.localeCompare(b);
  return a - b;
}

/** A share as a number with a bar. */
export function shareBar(share, text) {
  return h("span", { class: "share" },
    h("span", { class: "share-bar", "aria-hidden": "true" },
      h("span", { style: { width: `${Math.max(0, Math.min(1, share)) * 100}%` } })),
    h("span", { class: "share-text" }, text));
}
