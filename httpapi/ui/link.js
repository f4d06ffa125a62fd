// What is said of the connection: a lamp at the top, and where it is lost a
// banner that does not go until it is back.

import { $, mark, put } from "./dom.js";
import { sentence } from "./dialogs.js";
import { time } from "./panel.js";

const lamp = { connecting: "Connecting…", live: "Live", lost: "Connection lost", refused: "No access" };

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

  /** set takes the stream's state and what it says of it. */
  set(to, { why = "", again = 0 } = {}) {
    const before = this.#state;
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
    if (to === "live" && before === "lost") this.does.say("The connection is back. What you see is live again.");
    if (to !== before) this.does.changed();
  }

  #lost(before) {
    put($("lost-title"), "Connection lost.");
    put($("lost-button"), "Try now");
    this.#count();
    if (before !== "lost") put($("whisper"), `Connection lost. ${sentence(this.#detail)}`);
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
