// What is said of the connection: a lamp at the top, and where it is lost a
// banner that does not go until it is back.

import { $, mark, put } from "./dom.js";
import { sentence } from "./dialogs.js";
import { time } from "./panel.js";

const lamp = { connecting: "Connecting…", live: "Live", cut: "Cut off", lost: "Connection lost", refused: "No access" };

/** Link knows how the stream is. */
export class Link {
  #state = "connecting";
  #since = 0;
  #again = 0;
  #detail = "";

  /** does has again(), another(detail), say(text) and changed(). */
  constructor(does) {
    this.does = does;
    setInterval(() => this.#count(), 500);
    $("lost-button").addEventListener("click", () => this.#press());
  }

  live() { return this.#state === "live"; }

  /** stale takes what the server says of itself: it may be cut off from those
   * that it shares the registry with. */
  stale({ stale, seconds = 0, backend = "" }) {
    this.set(stale ? "cut" : "live", { why: backend, since: Date.now() - 1000 * seconds });
  }

  /** set takes the stream's state and what it says of it. */
  set(to, { why = "", again = 0, since = 0, stale = false } = {}) {
    const before = this.#state;
    if (to === "cut") this.#since = since;
    if (to === "lost" && before === "live") this.#since = Date.now();
    this.#state = to;
    this.#detail = why;
    this.#again = again;
    mark($("link"), "data-state", to);
    put($("link-text"), lamp[to]);
    document.body.classList.toggle("stale", to !== "live");
    $("lost").hidden = to === "live" || to === "connecting";
    if (to === "lost") this.#lost(before);
    if (to === "refused") this.#refused();
    if (to === "cut") this.#cut();
    $("lost-button").hidden = to === "cut";
    const good = to === "live" && !stale;
    if (good && before === "cut") this.does.say("The server is in touch again. What you see is live.");
    if (good && before === "lost") this.does.say("The connection is back. What you see is live again.");
    if (to !== before) this.does.changed();
  }

  #lost(before) {
    put($("lost-title"), "Connection lost.");
    put($("lost-button"), "Try now");
    this.#count();
    if (before !== "lost") put($("whisper"), `Connection lost. ${sentence(this.#detail)}`);
  }

  #cut() {
    const text = `What you see is from ${time(this.#since)}. Ask another server, or wait: it goes on by itself.`;
    put($("lost-title"), `This server is cut off from ${this.#detail || "the others"}.`);
    put($("lost-text"), text);
    put($("whisper"), `${$("lost-title").textContent} ${text}`);
  }

  #refused() {
    put($("lost-title"), "The registry is not open to you.");
    put($("lost-text"), sentence(this.#detail));
    put($("lost-button"), "Enter a token");
    put($("whisper"), sentence(this.#detail));
  }

  /** count says how long it is until the next try. */
  #count() {
    if (this.#state !== "lost") return;
    const seconds = Math.max(0, Math.ceil((this.#again - Date.now()) / 1000));
    const next = seconds > 0 ? `Trying again in ${seconds} s.` : "Trying again…";
    put($("lost-text"), `${sentence(this.#detail)} ${this.#since ? `What you see is from ${time(this.#since)}. ` : ""}${next}`);
  }

  async #press() {
    if (this.#state === "refused") await this.does.another(this.#detail);
    else this.does.again();
  }
}
