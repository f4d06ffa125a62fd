// The registry as the stream of events tells it. Nothing here knows of the
// screen.

const remembered = 300; // events

/** keyOf names an instance. Neither part has a line break in it. */
export const keyOf = (i) => `${i.service}\n${i.id}`;

/** byName is the order of lists: by service, and in that by ID. */
export function byName(a, b) {
  if (a.service !== b.service) return a.service < b.service ? -1 : 1;
  return a.id === b.id ? 0 : a.id < b.id ? -1 : 1;
}

export const statuses = ["up", "starting", "down", "draining"];

/** Counts says how many instances there are by status. */
class Counts {
  total = 0;
  up = 0;
  starting = 0;
  down = 0;
  draining = 0;

  add(status, n) {
    this.total += n;
    this[status] += n;
  }
}

/** Service is a service's instances, and how much weight each priority has. */
class Service {
  counts = new Counts();
  instances = new Map(); // by ID
  weights = new Map(); // of who is up: priority to {weight, n}

  constructor(name) { this.name = name; }

  count(i, n) {
    this.counts.add(i.status, n);
    if (i.status !== "up") return;
    const group = this.weights.get(i.priority) ?? { weight: 0, n: 0 };
    group.weight += n * i.weight;
    group.n += n;
    if (group.n === 0) this.weights.delete(i.priority);
    else this.weights.set(i.priority, group);
  }

  /** best is the priority whose instances clients are sent to. */
  best() { return Math.min(...this.weights.keys()); }
}

/** Model takes in events and tells its listener what has changed: nothing for
 * all of it, or an instance before and after. An instance is never changed but
 * for its lease; a new one takes its place. */
export class Model {
  services = new Map(); // by name
  counts = new Counts();
  revision = 0;
  changes = 0; // events taken in, without resets
  resets = 0;
  recent = []; // the latest last
  seen = 0; // entries that recent has ever had

  constructor(onChange) { this.onChange = onChange; }

  get(service, id) { return this.services.get(service)?.instances.get(id); }

  /** take takes in one event of the stream. */
  take(event, data, now = Date.now()) {
    if (event === "reset") {
      this.#reset(data, now);
      return;
    }
    const before = this.get(data.service, data.id);
    const gone = event === "deregister" || event === "expire";
    const after = gone ? null : { ...data, asOf: now };
    if (before) this.#remove(before, after !== null);
    if (after) this.#add(after);
    this.revision = data.revision;
    this.changes++;
    this.#remember({ at: now, event, service: data.service, id: data.id, what: gone ? "" : difference(before, after), revision: data.revision });
    this.onChange(before, after);
  }

  #reset(data, now) {
    this.services = new Map();
    this.counts = new Counts();
    for (const i of data.instances) {
      i.asOf = now;
      this.#add(i);
    }
    this.revision = data.revision;
    this.#remember({ at: now, event: "reset", what: this.resets++ ? "the whole state was read anew" : "the whole state was read", revision: data.revision });
    this.onChange();
  }

  #add(i) {
    let service = this.services.get(i.service);
    if (!service) this.services.set(i.service, service = new Service(i.service));
    service.instances.set(i.id, i);
    service.count(i, 1);
    this.counts.add(i.status, 1);
  }

  #remove(i, replaced) {
    const service = this.services.get(i.service);
    service.count(i, -1);
    this.counts.add(i.status, -1);
    if (replaced) return;
    service.instances.delete(i.id);
    if (service.instances.size === 0) this.services.delete(i.service);
  }

  #remember(entry) {
    this.seen++;
    this.recent.push(entry);
    if (this.recent.length > 2 * remembered) this.recent.splice(0, remembered);
  }

  /** renew takes in what a list says of an instance's lease. A heartbeat is no
   * event, so that is the one way to see it. What is of another revision than
   * the stream's is left alone: the stream brings the rest. */
  renew(data, now = Date.now()) {
    const i = this.get(data.service, data.id);
    if (!i || i.revision !== data.revision) return;
    i.expires = data.expires;
    i.asOf = now;
  }
}

const told = ["weight", "priority", "port", "ttl", "addresses", "tags", "meta", "ports", "check", "protocol", "permanent"];

/** difference says what an event has changed, in a few words. */
function difference(before, after) {
  if (!before) return after.addresses[0] + (after.port ? ` port ${after.port}` : "");
  if (before.status !== after.status) return `${before.status} → ${after.status}`;
  const fields = told.filter((f) => JSON.stringify(before[f]) !== JSON.stringify(after[f]));
  return fields.map((f) => (typeof after[f] === "number" ? `${f} ${before[f] ?? "none"} → ${after[f]}` : f)).join(", ");
}

/** shareOf is the part of new connections that an instance gets: a number from
 * 0 to 1, or why it gets none. */
export function shareOf(service, i) {
  if (i.status !== "up") return "none";
  if (i.priority !== service.best()) return "standby";
  const { weight, n } = service.weights.get(i.priority);
  return weight === 0 ? 1 / n : i.weight / weight;
}
