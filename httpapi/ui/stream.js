// The stream of events, read through fetch: an EventSource cannot send a token.

const silence = 40_000; // the server says something every 15 s
const longest = 10_000; // between two tries
const steady = 2_000; // a connection that has lasted so long was a good one

/** Parser takes a stream of server-sent events apart (HTML, 9.2.6). */
export class Parser {
  #rest = "";
  #event = "";
  #data = [];

  /** lastId is the id of the last event that was dispatched. */
  lastId = "";
  #id = "";

  constructor(dispatch) { this.dispatch = dispatch; }

  feed(text) {
    const whole = this.#rest + text;
    let from = 0;
    for (let to; (to = whole.indexOf("\n", from)) >= 0; from = to + 1) {
      this.#line(whole.slice(from, whole[to - 1] === "\r" ? to - 1 : to));
    }
    this.#rest = whole.slice(from);
  }

  #line(line) {
    if (line === "") {
      this.#end();
      return;
    }
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(line[colon + 1] === " " ? colon + 2 : colon + 1);
    if (name === "data") this.#data.push(value);
    else if (name === "event") this.#event = value;
    else if (name === "id") this.#id = value;
  }

  #end() {
    const data = this.#data, event = this.#event;
    this.#data = [];
    this.#event = "";
    if (data.length === 0) return;
    this.dispatch(event, JSON.parse(data.join("\n")));
    this.lastId = this.#id;
  }
}

/** Stream keeps a connection to /v1/events, and comes back to where it was
 * after each cut. */
export class Stream {
  #lastId = "";
  #cut = null; // ends the connection that there is
  #wake = null; // ends the wait for the next try
  #anew = false; // the cut was wanted

  /** onEvent gets each event; onState "connecting", "live" (with whether the
   * server is cut off, of which an event tells more), "lost" (with why, and when
   * the next try is) or "refused" (with why). */
  constructor(api, onEvent, onState) {
    this.api = api;
    this.onEvent = onEvent;
    this.onState = onState;
  }

  /** run never ends. */
  async run() {
    this.onState("connecting");
    for (let failed = 0; ; failed++) {
      let why = "The server ended the connection.", after = 0;
      try {
        const lived = await this.#once();
        if (lived > steady || this.#anew) {
          this.#anew = false;
          failed = -1; // the first try is at once, and nothing is said if it works
          continue;
        }
      } catch (e) {
        why = e.message;
        after = e.retryAfter ?? 0;
        if (e.status === 401 || e.status === 403) {
          this.onState("refused", { why });
          await this.#wait(0);
          failed = -1;
          continue;
        }
      }
      const wait = Math.max(after, Math.min(longest, 1000 * 2 ** failed) * (0.8 + 0.4 * Math.random()));
      this.onState("lost", { why, again: Date.now() + wait });
      await this.#wait(wait);
    }
  }

  /** again tries at once, from the beginning where anew is set. */
  again(anew = false) {
    if (anew) {
      this.#lastId = "";
      this.#anew = this.#wake === null;
      this.#cut?.abort();
    }
    this.#wake?.();
  }

  #wait(ms) {
    return new Promise((resolve) => {
      const timer = ms > 0 ? setTimeout(resolve, ms) : 0;
      this.#wake = () => { clearTimeout(timer); resolve(); };
    }).finally(() => { this.#wake = null; });
  }

  /** once reads one connection to its end, and returns how long it was there.
   * It throws where there was none. */
  async #once() {
    const cut = new AbortController();
    this.#cut = cut;
    let began = performance.now() + silence, timer = setTimeout(() => cut.abort(), silence);
    // What a token lets one see may have changed while the stream was cut, and
    // a stream that goes on would not say so: with a token it begins anew.
    const headers = this.#lastId && !this.api.hasToken ? { "Last-Event-ID": this.#lastId } : {};
    try {
      const response = await this.api.request("GET", "v1/events", { headers, signal: cut.signal });
      began = performance.now();
      this.onState("live", { stale: response.headers.has("Roster-Stale") });
      const parser = new Parser(this.onEvent);
      parser.lastId = this.#lastId;
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (;;) {
        const { value, done } = await reader.read();
        if (done || cut.signal.aborted) break;
        clearTimeout(timer);
        timer = setTimeout(() => cut.abort(), silence);
        parser.feed(value);
        this.#lastId = parser.lastId;
      }
    } catch (e) {
      if (e.status !== undefined) throw e;
      if (e instanceof SyntaxError) throw new Error("The server sent something that is no event.");
      // a cut
    } finally {
      clearTimeout(timer);
    }
    return performance.now() - began;
  }
}
