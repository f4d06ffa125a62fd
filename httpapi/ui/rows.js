// What a row of the two lists looks like.

import { h, mark, put } from "./dom.js";
import { keyOf, shareOf, statuses } from "./model.js";
import { leaseBar } from "./leases.js";

/** hostPort writes an address as URLs do. */
export const hostPort = (address, port) => (address.includes(":") && port ? `[${address}]` : address) + (port ? `:${port}` : "");

/** percent is short, and never says 0 of what is not. */
export function percent(share) {
  if (share > 0 && share < 0.001) return "< 0.1 %";
  return `${share < 0.1 && share > 0 ? (100 * share).toFixed(1) : Math.round(100 * share)} %`;
}

/** number has groups of three, which a thin space divides. */
export const number = (n) => String(n).replace(/\B(?=(\d{3})+$)/g, "\u202f");

/** serviceRows are those of the list of services, whose first is null: all. */
export function serviceRows(model, open) {
  return {
    key: (s) => s?.name ?? "",
    name: (s) => (s ? `${s.name}: ${s.counts.up} of ${s.counts.total} up` : `All services: ${model.counts.total} instances`),
    open,
    create(row) {
      const name = h("span", { class: "name" });
      const count = h("span", { class: "number" });
      const health = h("span", { class: "health" }, statuses.map((s) => h("i", { class: s })));
      row.append(name, count, health);
      return (s) => {
        const counts = s?.counts ?? model.counts;
        put(name, s?.name ?? "All services");
        put(count, counts.up === counts.total ? number(counts.total) : `${number(counts.up)} / ${number(counts.total)}`);
        row.classList.toggle("hurt", counts.up < counts.total);
        statuses.forEach((status, k) => {
          const grow = String(counts[status]);
          if (health.children[k].style.flexGrow !== grow) health.children[k].style.flexGrow = grow;
        });
      };
    },
  };
}

/** instanceRows are those of the list of instances. */
export function instanceRows(model, state, open, moved) {
  return {
    key: keyOf,
    name(i) {
      const where = state.service ? "" : ` of ${i.service}`;
      return `${i.id}${where}, ${i.status}, ${hostPort(i.addresses[0], i.port)}, priority ${i.priority}, weight ${i.weight}`;
    },
    open,
    moved,
    create(row) {
      const icon = h("span", { class: "status" });
      const id = h("span", { class: "id" });
      const service = h("span", { class: "service" });
      const word = h("span", { class: "word" });
      const address = h("span", { class: "address" });
      const more = h("span", { class: "more" });
      const bar = h("span", { class: "fill" });
      const share = h("span", { class: "number" });
      const tags = h("span", { class: "tags" });
      const cell = h("span", { class: "share" }, h("span", { class: "bar" }, bar), share);
      row.lease = leaseBar();
      row.append(
        h("span", { class: "who" }, icon, id, service, word),
        h("span", { class: "where" }, address, more),
        cell, tags, row.lease.element,
      );
      return (i) => {
        mark(icon, "data-status", i.status);
        put(id, i.id);
        put(service, state.service ? "" : i.service);
        put(word, i.status === "up" ? "" : i.status);
        mark(word, "data-status", i.status);
        put(address, hostPort(i.addresses[0], i.port));
        put(more, i.addresses.length > 1 ? `+${i.addresses.length - 1}` : "");
        const part = shareOf(model.services.get(i.service), i);
        const scale = `scaleX(${typeof part === "number" ? part.toFixed(4) : 0})`;
        if (bar.style.transform !== scale) bar.style.transform = scale;
        put(share, part === "standby" ? `standby (${i.priority})` : part === "none" ? "–" : percent(part));
        cell.classList.toggle("without", typeof part !== "number");
        put(tags, (i.tags ?? []).join("  "));
        row.lease.draw(i);
      };
    },
  };
}
