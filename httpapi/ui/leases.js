// Leases run down on the screen, and jump back with each heartbeat. A heartbeat
// is no event (it moves no revision), so the page asks for the instances that
// are on screen, and for no others: a small service whole, of a large one only
// the rows.

import { h, put } from "./dom.js";
import { instancePath } from "./api.js";

const every = 2000; // between two looks
const tick = 500; // between two steps of the bars
const stale = 3 * every; // an older look says nothing of now
const small = 64; // instances of a service that is asked for whole
const atOnce = 4; // requests; browsers have six connections to a server

let clock = { now: Date.now };
let connected = () => true;

/** leaseBar is a bar and a text. draw takes the instance whose lease they show. */
export function leaseBar() {
  const fill = h("span", { class: "fill" });
  const text = h("span", { class: "number" });
  const element = h("span", { class: "lease" }, h("span", { class: "bar" }, fill), text);
  let last = -1;
  return {
    element,
    draw(i) {
      const { left, part, words, known } = leaseOf(i);
      element.classList.toggle("unknown", !known);
      element.classList.toggle("permanent", left === Infinity);
      element.classList.toggle("short", known && part < 0.34);
      // Down in steps that nobody sees, up in a glide.
      element.classList.toggle("jump", part > last + 0.02);
      last = part;
      const scale = `scaleX(${part.toFixed(3)})`;
      if (fill.style.transform !== scale) fill.style.transform = scale;
      put(text, words);
    },
  };
}

/** leaseOf says how much of a lease is left, as far as that is known. */
export function leaseOf(i) {
  if (i.permanent || !i.expires) return { left: Infinity, part: 0, words: "permanent", known: true };
  i.ends ??= { of: "", at: 0 };
  if (i.ends.of !== i.expires) i.ends = { of: i.expires, at: Date.parse(i.expires) };
  const left = i.ends.at - clock.now();
  const known = connected() && Date.now() - i.asOf < stale;
  const part = Math.max(0, Math.min(1, left / (i.ttl * 1000)));
  return { left, part, words: known ? span(left) : "…", known };
}

/** span is a time in whole units. */
export function span(ms) {
  const s = Math.max(0, Math.ceil(ms / 1000));
  if (s < 120) return `${s} s`;
  return s < 7200 ? `${Math.round(s / 60)} min` : `${Math.round(s / 3600)} h`;
}

/** Leases looks and draws while the page is seen and the stream is live. */
export class Leases {
  #busy = false;
  #soon = 0;

  /** looks counts the requests that were made. */
  looks = 0;

  /** onScreen returns the instances, draw steps the bars. */
  constructor(api, model, { onScreen, draw, live }) {
    Object.assign(this, { api, model, onScreen, draw, live });
    clock = api.clock;
    connected = live;
    setInterval(() => { if (!document.hidden) this.draw(); }, tick);
    setInterval(() => this.look(), every);
    document.addEventListener("visibilitychange", () => this.look());
  }

  /** soon looks when the screen has come to rest. */
  soon() {
    clearTimeout(this.#soon);
    this.#soon = setTimeout(() => this.look(), 120);
  }

  async look() {
    if (this.#busy || document.hidden || !this.live()) return;
    this.#busy = true;
    try {
      const paths = this.#paths();
      const worker = async () => {
        for (let path; (path = paths.pop());) await this.#ask(path);
      };
      await Promise.all(Array.from({ length: atOnce }, worker));
      this.draw();
    } finally {
      this.#busy = false;
    }
  }

  #paths() {
    const paths = new Set();
    for (const i of this.onScreen()) {
      if (i.permanent) continue;
      const whole = this.model.services.get(i.service)?.instances.size <= small;
      try {
        paths.add(whole ? `v1/services/${encodeURIComponent(i.service)}` : instancePath(i.service, i.id));
      } catch {
        // no browser can ask for it
      }
    }
    return [...paths];
  }

  async #ask(path) {
    this.looks++;
    try {
      const data = await this.api.json(path, { quiet: true, signal: AbortSignal.timeout(2 * every) });
      for (const i of data.instances ?? [data]) this.model.renew(i);
    } catch {
      // It is gone, or the server is: the stream says which.
    }
  }
}
