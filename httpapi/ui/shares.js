// Who gets how much: the priorities of a service, and in each the weights as
// shares of one bar (RFC 2782).

import { h, svg } from "./dom.js";
import { number, percent } from "./rows.js";

const parts = 24; // in one bar; the rest are drawn as one
const groups = 4; // priorities
const named = 5; // in the text below a bar
const width = 360;
const gap = 1.5;

/** sharesOf works out a service's groups: the priority, its up instances with
 * the largest weight first, and what they weigh together. */
export function sharesOf(service) {
  const by = new Map();
  for (const i of service.instances.values()) {
    if (i.status !== "up") continue;
    if (!by.has(i.priority)) by.set(i.priority, []);
    by.get(i.priority).push(i);
  }
  return [...by].sort(([a], [b]) => a - b).map(([priority, list]) => {
    list.sort((a, b) => b.weight - a.weight || (a.id < b.id ? -1 : 1));
    return { priority, list, ...service.weights.get(priority) };
  });
}

/** drawShares draws them. The one of the chosen ID stands out. */
export function drawShares(service, chosen) {
  const all = sharesOf(service);
  if (all.length === 0) return [h("p", { class: "note" }, "Nobody is up, so nobody gets anything.")];
  const drawn = all.slice(0, groups).map((g, k) => drawGroup(g, k === 0, chosen));
  const rest = all.length - groups;
  return rest > 0 ? [...drawn, h("p", { class: "note" }, `And ${rest} more ${rest === 1 ? "priority" : "priorities"} behind these.`)] : drawn;
}

function drawGroup({ priority, list, weight, n }, best, chosen) {
  const shareOf = (i) => (weight === 0 ? 1 / n : i.weight / weight);
  let shown = list.slice(0, parts);
  const own = list.find((i) => i.id === chosen);
  if (own && !shown.includes(own)) shown = [own, ...shown.slice(1)];
  const rest = 1 - shown.reduce((sum, i) => sum + shareOf(i), 0);
  const role = best ? "serving" : "standby";
  const legend = shown.slice(0, named).map((i) => `${i.id} ${percent(shareOf(i))}`);
  if (own && !shown.slice(0, named).includes(own)) legend[named - 1] = `${own.id} ${percent(shareOf(own))}`;
  const others = n - legend.length;
  if (others > 0) legend.push(`${number(others)} more`);
  const label = `Priority ${priority}, ${role}: ${legend.join(", ")}`;

  const drawing = svg("svg", { class: "shares", viewBox: `0 0 ${width} 12`, preserveAspectRatio: "none", role: "img", "aria-label": label });
  let x = 0;
  const part = (share, kind) => {
    const w = Math.max(0.75, share * width - gap);
    drawing.append(svg("rect", { x: x.toFixed(2), y: 0, width: w.toFixed(2), height: 12, rx: Math.min(2, w / 2), class: kind }));
    x += share * width;
  };
  shown.forEach((i, k) => part(shareOf(i), i === own ? "own" : `shade${k % 3}`));
  if (rest > 0.0005) part(rest, "rest");
  return h("div", { class: best ? "group" : "group standby" },
    h("p", { class: "group-head" }, h("strong", {}, `Priority ${priority}`), ` ${role}`, h("span", { class: "number" }, `${number(n)} up`)),
    drawing,
    h("ul", { class: "legend", "aria-hidden": "true" }, legend.map((text) => h("li", { class: own && text.startsWith(`${own.id} `) ? "own" : null }, text))));
}
