// Requests to the API that this page comes from. The token goes in a header,
// and is kept for as long as the tab is open.

const base = new URL("../", document.baseURI);
const tokenKey = "roster-token";

/** Problem is an answer that is none: what the server says is wrong, or, with
 * status 0, that it was not reached. */
export class Problem extends Error {
  constructor(status, detail, retryAfter = 0) {
    super(detail);
    this.status = status;
    this.retryAfter = retryAfter; // milliseconds
  }
}

/** Api sends requests. */
export class Api {
  #token = sessionStorage.getItem(tokenKey) ?? "";
  #asking = null;

  /** ask shows the person what the server says and returns a token, or "" where
   * none was given. */
  constructor(ask) {
    this.ask = ask;
    this.clock = new ServerClock();
    this.onToken = () => {};
  }

  get hasToken() { return this.#token !== ""; }

  get base() { return base.href; }

  forget() { this.#keep(""); }

  /** another asks for a token although nothing was refused for want of one. */
  another(detail) { return this.#askOnce(detail); }

  #keep(token) {
    this.#token = token;
    if (token) sessionStorage.setItem(tokenKey, token);
    else sessionStorage.removeItem(tokenKey);
    this.onToken();
  }

  /** request sends one and returns the response of a success. Where a token is
   * needed it is asked for, unless the request is a quiet one. */
  async request(method, path, { quiet = false, headers = {}, signal } = {}) {
    for (;;) {
      const token = this.#token;
      try {
        return await this.#send(method, path, { ...headers }, signal);
      } catch (e) {
        if (e.status !== 401 || quiet) throw e;
        if (token === this.#token && !await this.#askOnce(e.message)) throw e;
      }
    }
  }

  /** askOnce has one question open at a time, whoever needs the answer. */
  #askOnce(detail) {
    this.#asking ??= this.ask(detail, this.hasToken).then((token) => {
      if (token) this.#keep(token);
      return token !== "";
    }).finally(() => { this.#asking = null; });
    return this.#asking;
  }

  async #send(method, path, headers, signal) {
    if (this.#token) headers.Authorization = `Bearer ${this.#token}`;
    const sent = Date.now();
    let response;
    try {
      response = await fetch(new URL(path, base), { method, headers, signal, cache: "no-store", credentials: "same-origin", redirect: "error" });
    } catch (e) {
      if (signal?.aborted) throw e;
      throw new Problem(0, "The server does not answer.");
    }
    this.clock.heard(response.headers.get("Date"), sent, Date.now());
    if (response.ok) return response;
    throw await problemOf(response);
  }

  /** json returns the value of a GET. */
  async json(path, options) {
    return (await this.request("GET", path, options)).json();
  }
}

async function problemOf(response) {
  let detail = `${response.status} ${response.statusText}`;
  try {
    detail = (await response.json()).detail || detail;
  } catch {
    // a proxy's own page, say; the status has to do
  }
  return new Problem(response.status, detail, 1000 * (Number(response.headers.get("Retry-After")) || 0));
}

/** instancePath is where the API has an instance. */
export function instancePath(service, id) {
  if (id === "." || id === "..") throw new Problem(0, `No browser can ask for the path of an instance named ${id}; use curl --path-as-is.`);
  return `v1/services/${encodeURIComponent(service)}/instances/${encodeURIComponent(id)}`;
}

/** ServerClock knows the time at the server, so that leases are right on a host
 * whose own clock is not. Each answer says the server's time in whole seconds,
 * and so bounds how far off it can be; together they come close. */
export class ServerClock {
  #low = -Infinity;
  #high = Infinity;

  heard(date, sent, received) {
    const at = Date.parse(date ?? "");
    if (Number.isNaN(at)) return;
    const low = Math.max(this.#low, at - received);
    const high = Math.min(this.#high, at + 1000 - sent);
    const stepped = low > high; // one of the clocks was set
    this.#low = stepped ? at - received : low;
    this.#high = stepped ? at + 1000 - sent : high;
  }

  now() {
    if (this.#low === -Infinity) return Date.now();
    const offset = this.#low > 0 ? this.#low : Math.min(this.#high, 0); // 0 where that is possible
    return Date.now() + offset;
  }
}
