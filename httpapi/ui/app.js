// The page: what is open, what the keys do, and when what is drawn. Changes are
// taken in as they come and drawn once a frame.

import { $, h, mark, put } from "./dom.js";
import { Api, instancePath } from "./api.js";
import { askToken, confirmed, sentence, showKeys } from "./dialogs.js";
import { Leases } from "./leases.js";
import { Link } from "./link.js";
import { VirtualList } from "./list.js";
import { keyOf, Model, statuses } from "./model.js";
import { digLine, zoneOf } from "./names.js";
import { drawNothing } from "./nothing.js";
import { Panel, time } from "./panel.js";
import { instanceRows, number, serviceRows } from "./rows.js";
import { listenToKeys } from "./keys.js";
import { Stream } from "./stream.js";
import { View } from "./view.js";

const narrow = matchMedia("(max-width: 1100px)"); // the panel lies over the list
const phone = matchMedia("(max-width: 760px)");

/** state is what the person has chosen. */
export const state = {
  service: "", // "": all
  id: "", // "": none
  text: "",
  statuses: new Set(),
  safe: new Map(), // when who was removed is forgotten by every cache
  overlay: () => narrow.matches,
};

export const model = new Model(changed);
export const api = new Api(askToken);
const view = new View(model);
const services = new VirtualList($("services"), serviceRows(model, (s) => { open(s?.name ?? "", ""); showServices(false); }));
const instances = new VirtualList($("instances"), instanceRows(model, state, (i) => open(i.service, i.id, true), (i) => { if (state.id) open(i.service, i.id); }));
const panel = new Panel($("panel"), model, state, { close: closePanel, remove, say });
const stream = new Stream(api, (event, data) => (event === "stale" ? link.stale(data) : model.take(event, data)), (to, info) => link.set(to, info));
const link = new Link({ again: () => stream.again(), another: (detail) => api.another(detail), say, changed: () => { drawSlowly(); stepLeases(); leases.look(); } });
export const leases = new Leases(api, model, { live: () => link.live(), draw: stepLeases, onScreen });

let servicesChanged = true, frame = 0, slow = 0;

/** changed is told of each change of the model. */
function changed(before, after) {
  if (before === undefined && after === undefined) {
    view.rebuild();
    servicesChanged = true;
  } else {
    const { service } = before ?? after;
    servicesChanged ||= !before || !model.services.has(service);
    view.change(before, after);
  }
  drawSoon();
}

function drawSoon() {
  frame ||= requestAnimationFrame(() => {
    frame = 0;
    instances.show(view.rows, keyOf(state));
    // What is read, not watched, moves at a pace at which it can be read.
    slow ||= setTimeout(drawSlowly, model.counts.total > 1000 ? 500 : 200);
  });
}

/** drawSlowly draws all but the rows. */
function drawSlowly() {
  clearTimeout(slow);
  slow = 0;
  if (servicesChanged) {
    servicesChanged = false;
    const list = [...model.services.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
    services.show([null, ...list], state.service);
    put($("services-count"), number(list.length));
    const one = list[0]?.instances.values().next().value;
    if (one) put($("zone"), zoneOf(one));
  } else {
    services.draw();
  }
  drawChips();
  put($("matches"), matches());
  drawNothing($("nothing"), { model, state, rows: view.rows.length, live: link.live(), base: api.base, say, clear: clearFilter });
  $("table").hidden = view.rows.length === 0;
  panel.draw();
}

function matches() {
  const all = state.service ? model.services.get(state.service)?.counts.total ?? 0 : model.counts.total;
  const words = all === 1 ? "instance" : "instances";
  return view.rows.length === all ? `${number(all)} ${words}` : `${number(view.rows.length)} of ${number(all)} ${words}`;
}

const chips = new Map(statuses.map((status) => {
  const count = h("span", { class: "number" });
  const button = h("button", { type: "button", class: "chip", "aria-pressed": "false", onclick: () => toggle(status) },
    h("span", { class: "status", "data-status": status }), `${status} `, count);
  $("chips").append(button);
  return [status, { button, count }];
}));

function drawChips() {
  const counts = state.service ? model.services.get(state.service)?.counts : model.counts;
  for (const [status, { button, count }] of chips) {
    put(count, number(counts?.[status] ?? 0));
    mark(button, "aria-pressed", String(state.statuses.has(status)));
  }
}

function toggle(status) {
  if (!state.statuses.delete(status)) state.statuses.add(status);
  filtered();
}

let whispering = 0;

/** filtered draws anew what a filter leaves, and says how much that is once the
 * typing has come to rest. */
function filtered() {
  view.set(state.service, state.text, state.statuses);
  instances.root.scrollTop = 0;
  instances.show(view.rows, keyOf(state));
  drawSlowly();
  leases.soon();
  clearTimeout(whispering);
  whispering = setTimeout(() => put($("whisper"), matches()), 700);
}

function clearFilter() {
  $("filter").value = state.text = "";
  state.statuses.clear();
  filtered();
  $("filter").focus();
}

/** open shows a service, or one of its instances; it is in the page's address,
 * so that the browser's way back works, and a link to it. */
function open(service, id, enter = false) {
  const path = service ? `#/${encodeURIComponent(service)}${id ? `/${encodeURIComponent(id)}` : ""}` : "#/";
  if (location.hash !== path) history[id && state.id ? "replaceState" : "pushState"](null, "", path);
  // An instance of a list of all services leaves that list as it is.
  state.inAll = id !== "" && (state.inAll || listedService() === "");
  route();
  if (enter && narrow.matches) panel.title.focus();
}

const listedService = () => (state.inAll ? "" : state.service);

/** route takes the state from the page's address. */
function route() {
  const [, service = "", id = ""] = location.hash.split("/").map((part) => { try { return decodeURIComponent(part); } catch { return ""; } });
  const list = listedService();
  Object.assign(state, { service, id });
  if (!id) state.inAll = false;
  document.body.classList.toggle("show-panel", id !== "");
  mark($("details"), "aria-expanded", String(id !== ""));
  document.title = service ? `${id ? `${id} · ` : ""}${service} · roster` : "roster";
  put($("list-title"), listedService() || "All services");
  if (list !== listedService()) filtered();
  services.show(services.items, listedService());
  instances.show(view.rows, keyOf(state));
  drawSlowly();
  leases.soon();
}

function closePanel() {
  const { service, id, inAll } = state;
  uncover();
  if (id) open(inAll ? "" : service, "");
  if (narrow.matches || id) instances.root.focus();
}

/** uncover shows the list, where the details lie over it. */
function uncover() {
  document.body.classList.remove("show-panel");
  mark($("details"), "aria-expanded", "false");
}

function showServices(shown) {
  if (shown && phone.matches) uncover();
  document.body.classList.toggle("show-services", shown);
  mark($("choose"), "aria-expanded", String(shown));
  if (shown) services.root.focus();
  else if (phone.matches) instances.root.focus();
}

function onScreen() {
  const one = model.get(state.service, state.id);
  return one ? [...instances.visible(), one] : instances.visible();
}

function stepLeases() {
  for (const row of instances.elements()) row.lease.draw(row.item);
  panel.tick();
}

const consequence = {
  drain: (i) => `It leaves the answers for ${i.service} at once. Its own name goes on answering until the last cache has forgotten it, and then it is removed. Heartbeats do not bring it back, but registering again does, and roster run and the Go client do so when a heartbeat finds it gone: stop such a program as soon as that is safe.`,
  deregister: (i) => `It leaves every answer at once, those for its own name too, so that a client that still holds its SRV record does not find it: to stop it without failing anybody, drain it. A program that goes on sending heartbeats for ${i.id} is told to register again, and may come back.`,
};

/** remove drains or deregisters an instance, once the person has said so. */
async function remove(i, drain) {
  if (!i || (drain && i.status === "draining")) return;
  const verb = drain ? "Drain" : "Deregister";
  if (!await confirmed({ title: `${verb} ${i.id} of ${i.service}?`, text: consequence[verb.toLowerCase()](i), yes: verb })) return;
  try {
    const response = await api.request("DELETE", instancePath(i.service, i.id) + (drain ? "?drain=true" : ""));
    const safe = Date.parse((await response.json()).safe_after);
    state.safe.set(keyOf(i), safe);
    say(`${i.id} is ${drain ? "draining" : "deregistered"}. The last cache has forgotten it at ${time(safe)}.`);
    panel.draw();
  } catch (e) {
    say(`${i.id} was not ${drain ? "drained" : "deregistered"}: ${sentence(e.message)}`, true);
  }
}

let saying = 0;

/** say tells the person something, for as long as it takes to read. */
function say(text, trouble = false) {
  const toast = $("say");
  put(toast, text);
  toast.classList.toggle("trouble", trouble);
  clearTimeout(saying);
  saying = setTimeout(() => put(toast, ""), trouble ? 15_000 : 7_000);
}

function copyDig() {
  const i = model.get(state.service, state.id);
  const name = i?.dns_name ?? (state.service && `${state.service}.${$("zone").textContent}`);
  if (name) panel.copied(digLine(name, i && i.addresses[0].includes(":") ? "AAAA" : "A"), name);
}

api.onToken = () => {
  $("forget").hidden = !api.hasToken;
  stream.again(true);
};
$("forget").hidden = !api.hasToken;
$("forget").addEventListener("click", () => { api.forget(); say("The token is forgotten."); });
$("filter").addEventListener("input", () => { state.text = $("filter").value; filtered(); });
$("skip").addEventListener("click", (e) => { e.preventDefault(); instances.root.focus(); });
$("choose").addEventListener("click", () => showServices(!document.body.classList.contains("show-services")));
$("details").addEventListener("click", () => {
  document.body.classList.add("show-panel");
  mark($("details"), "aria-expanded", "true");
  panel.draw();
  panel.title.focus();
});
$("keys").addEventListener("click", showKeys);
instances.root.addEventListener("scroll", () => leases.soon(), { passive: true });
addEventListener("hashchange", route);
narrow.addEventListener("change", drawSlowly);
addEventListener("online", () => stream.again());
listenToKeys({ state, clearFilter, closePanel, copyDig, showServices, showKeys,
  toList: () => { if (phone.matches) { uncover(); showServices(false); } },
  remove: (drain) => remove(model.get(state.service, state.id), drain) });
route();
stream.run();
