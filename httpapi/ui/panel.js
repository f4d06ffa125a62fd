// The details beside the list: of an instance, of a service, or of all.

import { copy, h, put, replace } from "./dom.js";
import { leaseBar, leaseOf, span } from "./leases.js";
import { keyOf, shareOf, statuses } from "./model.js";
import { digLine, instanceNames, serviceNames } from "./names.js";
import { hostPort, number, percent } from "./rows.js";
import { drawShares } from "./shares.js";

const listed = 40; // events

const meaning = {
  up: "In the service’s answers.",
  starting: "Its check has not passed yet, so it is in no answer of the service.",
  down: "In no answer of the service: its check fails, or it said so itself.",
  draining: "Out of the service’s answers; its own name answers until the lease ends.",
};

/** time is that of day. */
export const time = (at) => new Date(at).toLocaleTimeString(undefined, { hour12: false });

/** Panel draws into an element. */
export class Panel {
  #held = null; // the events at which the list was stopped
  #of = "";

  /** does has what its buttons do: close, open(service, id), remove(instance,
   * drain), say(text). */
  constructor(root, model, state, does) {
    Object.assign(this, { root, model, state, does });
    this.title = h("h2", { id: "panel-title", tabindex: "-1" });
    this.eyebrow = h("p", { class: "eyebrow" });
    this.close = h("button", { type: "button", class: "quiet close", "aria-label": "Close the details", onclick: () => does.close() }, "×");
    this.lease = leaseBar();
    this.leaseText = h("p", { class: "note" });
    const section = (name) => h("section", { class: name });
    this.status = section("status-line");
    this.leaseSection = h("section", { class: "lease-line" }, h("h3", {}, "Lease"), this.lease.element, this.leaseText);
    this.parts = { actions: section("actions"), counts: section("counts"), facts: section("facts"), shares: section("share-chart"), names: section("names") };
    this.events = section("events");
    const { actions, counts, facts, shares, names } = this.parts;
    root.append(h("div", { class: "panel-head" }, h("div", {}, this.eyebrow, this.title), this.close),
      this.status, counts, actions, this.leaseSection, shares, names, facts, this.events);
  }

  /** draw shows what the state has open, as the model has it now. */
  draw() {
    const { service, id } = this.state;
    const of = `${service}\n${id}`;
    if (this.#of !== of) {
      this.#of = of;
      this.#held = null;
      this.root.scrollTop = 0;
    }
    const s = this.model.services.get(service);
    const i = id ? s?.instances.get(id) : undefined;
    this.close.hidden = !id && !this.state.overlay();
    put(this.title, id || service || "Registry");
    put(this.eyebrow, id ? `Instance of ${service}` : service ? "Service" : "All services");
    this.#drawStatus(s, i);
    this.#drawCounts(id ? null : s?.counts ?? (service ? null : this.model.counts));
    this.#drawActions(i);
    this.leaseSection.hidden = !i;
    if (i) this.tick();
    this.#drawShares(s, i);
    this.#drawNames(s, i);
    this.#drawFacts(i);
    this.#drawEvents();
  }

  /** tick steps the lease. */
  tick() {
    const i = this.model.get(this.state.service, this.state.id);
    if (!i) return;
    this.lease.draw(i);
    const { left, known } = leaseOf(i);
    const words = i.status === "draining" ? "removed then: the last cache has forgotten it" : `of ${span(i.ttl * 1000)}; each heartbeat sets it back`;
    put(this.leaseText, left === Infinity ? "Permanent: it stays until it is deregistered." : known ? `${span(left)} left ${words}` : "Not known while the server is away.");
  }

  #drawStatus(s, i) {
    const { service, id } = this.state;
    if (i) {
      replace(this.status, `i ${i.status}`, () => h("p", {}, h("span", { class: "badge", "data-status": i.status }, i.status[0].toUpperCase() + i.status.slice(1)), `. ${meaning[i.status]}`));
      return;
    }
    const end = id && this.model.recent.findLast((e) => e.service === service && e.id === id);
    const how = { expire: "its lease ended", deregister: "it was deregistered" }[end?.event];
    const safe = this.state.safe.get(keyOf({ service, id }));
    replace(this.status, `${id} ${service} ${Boolean(s)} ${end?.at} ${safe}`, () => {
      if (id) return h("p", {}, `It is not registered${how ? `: ${how} at ${time(end.at)}` : ""}.${safe ? ` The last cache has forgotten it at ${time(safe)}; it is safe to stop then.` : ""}`);
      if (service && !s) return h("p", {}, "Nobody is registered for it.");
      return [];
    });
  }

  #drawCounts(counts) {
    this.parts.counts.hidden = !counts;
    if (!counts) return;
    const shown = statuses.filter((status) => status === "up" || counts[status] > 0);
    replace(this.parts.counts, shown.map((status) => `${status}${counts[status]}`).join() + this.model.services.size, () => [
      this.state.service ? null : h("p", { class: "figure" }, h("strong", {}, number(this.model.services.size)), " services"),
      ...shown.map((status) => h("p", { class: "figure" }, h("span", { class: "status", "data-status": status }), h("strong", {}, number(counts[status])), ` ${status}`)),
    ]);
  }

  #drawActions(i) {
    this.parts.actions.hidden = !i;
    if (!i) return;
    const draining = i.status === "draining";
    replace(this.parts.actions, `${keyOf(i)} ${draining}`, () => [
      h("button", { type: "button", "data-key": "drain", disabled: draining, onclick: () => this.does.remove(this.#open(), true) }, "Drain…"),
      h("button", { type: "button", "data-key": "deregister", class: "danger-quiet", onclick: () => this.does.remove(this.#open(), false) }, "Deregister…"),
    ]);
  }

  #open() { return this.model.get(this.state.service, this.state.id); }

  #drawShares(s, i) {
    const { shares } = this.parts;
    shares.hidden = !s || (this.state.id !== "" && !i);
    if (shares.hidden) return;
    const up = [...s.instances.values()].filter((x) => x.status === "up");
    const signature = `${i?.id}\n${s.name}\n${up.length > 400 ? this.model.revision : up.map((x) => `${x.id} ${x.priority} ${x.weight}`).join()}`;
    replace(shares, signature, () => {
      const part = i && shareOf(s, i);
      const note = { standby: `On standby: clients come here when nobody at priority ${s.best()} is left.`, none: "It gets nothing: it is not up." }[part];
      return [h("h3", {}, "Share of new connections"),
        i && typeof part === "number" ? h("p", { class: "figure" }, h("strong", {}, percent(part)), ` weight ${i.weight} at priority ${i.priority}`) : null,
        note ? h("p", { class: "note" }, note) : null,
        ...drawShares(s, i?.id)];
    });
  }

  #drawNames(s, i) {
    const { names } = this.parts;
    names.hidden = !s || (this.state.id !== "" && !i);
    if (names.hidden) return;
    const list = i ? instanceNames(i) : serviceNames(s);
    replace(names, list.map((n) => n.name + n.type).join(), () => {
      const { name, type } = list[0], line = digLine(name, type);
      return [h("h3", {}, "In DNS"),
        h("div", { class: "command" }, h("code", {}, h("span", {}, line.slice(0, line.indexOf(` ${name}`))), " ", h("span", {}, `${name} ${type}`)), this.#copy("Copy", line, line)),
        h("ul", {}, list.map((n) => this.#name(n)))];
    });
  }

  #name({ name, type, what }) {
    return h("li", {},
      h("p", { class: "dns-name" }, h("code", {}, name), h("span", { class: "type" }, type)),
      h("p", { class: "note" }, what),
      h("p", { class: "buttons" }, this.#copy("Copy name", name, name), this.#copy("Copy dig", `line for ${name} ${type}`, digLine(name, type))));
  }

  #copy(text, label, value) {
    return h("button", { type: "button", class: "quiet small", "data-key": `${text} ${value}`, "aria-label": `${text} ${label}`, onclick: () => this.copied(value, label) }, text);
  }

  async copied(value, what) {
    this.does.say(await copy(value) ? `Copied: ${value}` : `The browser did not let ${what} be copied; select it by hand.`);
  }

  #drawFacts(i) {
    const { facts } = this.parts;
    facts.hidden = !i;
    if (!i) return;
    const { asOf, ends, expires, text, ...rest } = i; // without what each look changes
    replace(facts, JSON.stringify(rest), () => {
      const rows = [["Addresses", i.addresses.map((a) => h("code", {}, hostPort(a, i.port)))],
        ["Protocol", [i.protocol + (i.port ? "" : ", no port, so no SRV record")]],
        ["Ports", Object.entries(i.ports ?? {}).map(([k, v]) => h("code", {}, `${k}: ${v}`))],
        ["Check", i.check ? [`${i.check.type} ${i.check.path ?? ""} on port ${i.check.port}, every ${i.check.interval} s`] : []],
        ["Tags", (i.tags ?? []).map((t) => h("span", { class: "tag" }, t))],
        ["Meta", Object.entries(i.meta ?? {}).map(([k, v]) => h("code", {}, `${k}=${v}`))],
        ["Revision", [String(i.revision)]]];
      return [h("h3", {}, "Registration"), h("dl", {}, rows.filter(([, list]) => list.length > 0).map(([name, list]) =>
        h("div", {}, h("dt", {}, name), ...list.map((item) => h("dd", {}, item)))))];
    });
  }

  /** hold stops the list of events, or lets it go on. */
  hold() {
    this.#held = this.#held ? null : [...this.model.recent];
    this.#drawEvents();
  }

  #drawEvents() {
    const { service, id } = this.state;
    const list = (this.#held ?? this.model.recent).filter((e) => (!service || e.service === service) && (!id || e.id === id) || (e.event === "reset" && !service))
      .slice(-listed).reverse();
    const signature = `${service}\n${id}\n${Boolean(this.#held)} ${list.length} ${list[0]?.at} ${list[0]?.revision}`;
    replace(this.events, signature, () => [
      h("div", { class: "events-head" }, h("h3", {}, "Recent events"),
        h("button", { type: "button", class: "quiet small", "data-key": "hold", "aria-pressed": String(Boolean(this.#held)), onclick: () => this.hold() }, "Hold")),
      list.length === 0 ? h("p", { class: "note" }, "None since this page was opened.") : h("ol", {}, list.map((e) => this.#event(e))),
    ]);
  }

  #event(e) {
    const { service, id } = this.state;
    const text = e.service === undefined || id ? "" : service ? e.id : `${e.service}/${e.id}`;
    const who = text && (this.model.get(e.service, e.id) ? h("a", { href: `#/${encodeURIComponent(e.service)}/${encodeURIComponent(e.id)}` }, text) : text);
    return h("li", {}, h("time", { datetime: new Date(e.at).toISOString() }, time(e.at)), h("span", { class: "kind", "data-event": e.event }, e.event),
      h("span", { class: "what" }, who ? h("span", {}, who) : null, who && e.what ? " " : null, h("span", { class: "muted" }, e.what)));
  }
}
