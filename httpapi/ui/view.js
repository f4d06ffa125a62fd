// The instances that are listed: what a filter leaves of the model, in order.

import { byName } from "./model.js";

/** View keeps its rows right from change to change, without a look at all of
 * them. */
export class View {
  rows = [];
  #words = [];
  #statuses = new Set();
  #service = "";

  constructor(model) { this.model = model; }

  /** set changes the filter: a service or "" for all, words that must all be
   * found, and statuses, none of which is all. */
  set(service, text, statuses) {
    this.#service = service;
    this.#words = text.toLowerCase().split(/\s+/).filter(Boolean);
    this.#statuses = new Set(statuses);
    this.rebuild();
  }

  rebuild() {
    const { services } = this.model;
    const from = this.#service ? [services.get(this.#service)].filter(Boolean) : services.values();
    const rows = [];
    for (const service of from) {
      for (const i of service.instances.values()) {
        if (this.#takes(i)) rows.push(i);
      }
    }
    this.rows = rows.sort(byName);
  }

  /** change follows one of the model's. */
  change(before, after) {
    const k = this.indexOf(before ?? after);
    const was = before !== undefined && this.rows[k] !== undefined && byName(this.rows[k], before) === 0;
    const is = after !== null && this.#takes(after);
    if (was && is) this.rows[k] = after;
    else if (was) this.rows.splice(k, 1);
    else if (is) this.rows.splice(k, 0, after);
  }

  /** indexOf is where an instance is, or would be. */
  indexOf(i) {
    let low = 0, high = this.rows.length;
    while (low < high) {
      const mid = (low + high) >> 1;
      if (byName(this.rows[mid], i) < 0) low = mid + 1;
      else high = mid;
    }
    return low;
  }

  #takes(i) {
    if (this.#service && i.service !== this.#service) return false;
    if (this.#statuses.size > 0 && !this.#statuses.has(i.status)) return false;
    if (this.#words.length === 0) return true;
    i.text ??= textOf(i);
    return this.#words.every((w) => i.text.includes(w));
  }
}

function textOf(i) {
  const meta = Object.entries(i.meta ?? {}).map(([k, v]) => `${k}=${v}`);
  const ports = Object.entries(i.ports ?? {}).map(([k, v]) => `${k}:${v}`);
  return [i.id, i.service, i.dns_name, i.protocol, i.addresses.map((a) => (a.includes(":") ? `[${a}]` : a) + `:${i.port}`), ports, i.tags ?? [], meta]
    .flat().join("\n").toLowerCase();
}
