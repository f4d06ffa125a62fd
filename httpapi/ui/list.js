// A list of any length of which only the visible rows are in the document.

import { h, mark } from "./dom.js";

const spare = 4; // rows above and below what is seen

/** VirtualList is a listbox. Its rows have one height, which the style sheet
 * says in --row. */
export class VirtualList {
  #items = [];
  #rows = new Map(); // by index
  #free = [];
  #selected = null;

  /** active is the item that the keyboard is at. */
  active = null;

  /** the kind has create(), which makes a row's content and returns a function
   * that draws an item into it; key(item); name(item), the row's name; and
   * open(item), which a click and Enter do; moved(item) follows the arrows. */
  constructor(root, kind) {
    this.root = root;
    this.kind = kind;
    this.space = h("div", { class: "space", role: "presentation" });
    root.append(this.space);
    root.addEventListener("scroll", () => this.draw(), { passive: true });
    root.addEventListener("keydown", (e) => this.#key(e));
    root.addEventListener("click", (e) => this.#click(e));
    root.addEventListener("focus", () => { if (this.active === null) this.#move(this.first()); });
    new ResizeObserver(() => { this.#measure(); this.draw(); }).observe(root);
    this.#measure();
  }

  #measure() {
    this.height = Number.parseFloat(getComputedStyle(this.root).getPropertyValue("--row")) || 44;
  }

  get items() { return this.#items; }

  first() { return Math.floor(this.root.scrollTop / this.height); }

  /** visible are the items on screen. */
  visible() {
    const first = this.first();
    return this.#items.slice(first, first + Math.ceil(this.root.clientHeight / this.height) + 1);
  }

  /** elements are the rows in the document, each with its item. */
  elements() { return this.#rows.values(); }

  /** show takes new items, or the same ones changed. */
  show(items, selected = this.#selected) {
    this.#items = items;
    this.#selected = selected;
    this.draw();
  }

  indexOf(key) { return this.#items.findIndex((i) => this.kind.key(i) === key); }

  draw() {
    const first = Math.max(0, this.first() - spare);
    const end = Math.min(this.#items.length, this.first() + Math.ceil(this.root.clientHeight / this.height) + spare);
    const height = `${this.#items.length * this.height}px`;
    if (this.space.style.height !== height) this.space.style.height = height;
    for (const [k, row] of this.#rows) {
      if (k >= first && k < end) continue;
      this.#rows.delete(k);
      this.#free.push(row);
    }
    for (let k = first; k < end; k++) this.#drawRow(k);
    for (const row of this.#free) row.hidden = true;
    this.#point();
  }

  #drawRow(k) {
    let row = this.#rows.get(k);
    if (!row) {
      row = this.#free.pop() ?? this.#create();
      row.hidden = false;
      row.style.transform = `translateY(${k * this.height}px)`;
      mark(row, "aria-posinset", String(k + 1));
      this.#rows.set(k, row);
    }
    const item = this.#items[k], key = this.kind.key(item);
    row.item = item;
    row.paint(item);
    mark(row, "aria-setsize", String(this.#items.length));
    mark(row, "aria-label", this.kind.name(item));
    mark(row, "aria-selected", String(key === this.#selected));
    row.classList.toggle("active", key === this.active);
  }

  #create() {
    const row = h("div", { class: "row", role: "option", id: `${this.root.id}-${this.space.childElementCount}` });
    row.paint = this.kind.create(row);
    this.space.append(row);
    return row;
  }

  /** point says which row the keyboard is at, if it is in the document. */
  #point() {
    for (const row of this.#rows.values()) {
      if (this.kind.key(row.item) === this.active) {
        mark(this.root, "aria-activedescendant", row.id);
        return;
      }
    }
    this.root.removeAttribute("aria-activedescendant");
  }

  #click(e) {
    const row = e.target.closest(".row");
    if (!row) return;
    this.active = this.kind.key(row.item);
    this.kind.open(row.item);
    this.draw();
  }

  #key(e) {
    if (e.altKey || e.ctrlKey || e.metaKey || this.#items.length === 0) return;
    const page = Math.max(1, Math.floor(this.root.clientHeight / this.height) - 1);
    const at = this.indexOf(this.active);
    const last = this.#items.length - 1;
    const to = { ArrowDown: at + 1, ArrowUp: at < 0 ? 0 : at - 1, PageDown: at + page, PageUp: at - page, Home: 0, End: last }[e.key];
    if (to !== undefined) {
      this.#move(to);
      this.kind.moved?.(this.#items[Math.max(0, Math.min(last, to))]);
    } else if ((e.key === "Enter" || e.key === " ") && at >= 0) {
      this.kind.open(this.#items[at]);
    } else {
      return;
    }
    e.preventDefault();
  }

  #move(to) {
    const k = Math.max(0, Math.min(this.#items.length - 1, to));
    if (k < 0) return;
    this.active = this.kind.key(this.#items[k]);
    this.reveal(k);
    this.draw();
  }

  /** reveal scrolls no further than needed. */
  reveal(k) {
    const top = k * this.height, bottom = top + this.height - this.root.clientHeight;
    if (this.root.scrollTop > top) this.root.scrollTop = top;
    else if (this.root.scrollTop < bottom) this.root.scrollTop = bottom;
  }
}
