// What stands where the list would be when there is nothing to list.

import { copy, h, replace } from "./dom.js";

/** drawNothing says why there is nothing, and what to do about it. */
export function drawNothing(element, { model, state, rows, live, base, say, clear }) {
  element.hidden = rows > 0;
  if (rows > 0) return;
  const kind = model.resets === 0 && model.revision === 0 ? (live ? "reading" : "waiting") : model.counts.total === 0 ? "empty" : "filtered";
  replace(element, `${kind}\n${state.service}\n${state.text}\n${[...state.statuses].join()}`, () => ({
    reading: () => h("p", { class: "muted" }, "Reading the registry…"),
    waiting: () => [],
    empty: () => empty(base, say),
    filtered: () => filtered(state, clear),
  })[kind]());
}

function empty(base, say) {
  return [
    h("h3", {}, "No services yet"),
    h("p", { class: "muted" }, "The first one appears here as soon as it is registered. Run a program under a name:"),
    command("roster run web --port 8080 -- python3 -m http.server 8080", say),
    h("p", { class: "muted" }, "or register one yourself, for thirty seconds:"),
    command(`curl -X PUT --json '{"port":8080}' ${base}v1/services/web/instances/a1`, say),
  ];
}

function command(text, say) {
  return h("div", { class: "command" }, h("code", {}, text),
    h("button", { type: "button", class: "quiet small", "aria-label": `Copy ${text}`, onclick: async () => say(await copy(text) ? "Copied." : "The browser did not let it be copied; select it by hand.") }, "Copy"));
}

function filtered(state, clear) {
  const looked = [state.text.trim() && `“${state.text.trim()}”`, ...state.statuses].filter(Boolean).join(", ");
  return [
    h("h3", {}, looked ? "No instance matches" : `Nobody is registered for ${state.service}`),
    h("p", { class: "muted" }, looked ? `Looked for ${looked}${state.service ? ` in ${state.service}` : ""}.` : "It appears here again as soon as somebody is."),
    looked ? h("button", { type: "button", "data-key": "clear", onclick: clear }, "Clear the filter") : null,
  ];
}
