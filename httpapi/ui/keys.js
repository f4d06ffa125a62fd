// Shortcuts, and the theme's switch, which has one.

import { $, put } from "./dom.js";

const themes = { automatic: "", light: "light", dark: "dark" };

/** stored reads and writes what is kept for the next visit, where that is
 * allowed. Nothing secret is. */
const stored = {
  get(key) { try { return localStorage.getItem(key); } catch { return null; } },
  set(key, value) { try { localStorage.setItem(key, value); } catch { /* then it is forgotten */ } },
};

function showTheme() {
  const now = document.documentElement.dataset.theme || "automatic";
  put($("theme"), `Theme: ${now}`);
}

function nextTheme() {
  const names = Object.keys(themes);
  const now = document.documentElement.dataset.theme || "automatic";
  const next = themes[names[(names.indexOf(now) + 1) % names.length]];
  if (next) document.documentElement.dataset.theme = next;
  else delete document.documentElement.dataset.theme;
  stored.set("roster-theme", next);
  showTheme();
}

/** listenToKeys has the keys do what the list of keys says. */
export function listenToKeys({ state, clearFilter, closePanel, copyDig, showServices, showKeys, toList, remove }) {
  const single = $("single");
  single.checked = stored.get("roster-single") !== "off";
  single.addEventListener("change", () => stored.set("roster-single", single.checked ? "on" : "off"));
  $("theme").addEventListener("click", nextTheme);
  showTheme();

  const does = {
    "/": () => { toList(); $("filter").focus(); $("filter").select(); },
    s: () => showServices(true),
    i: () => { toList(); $("instances").focus(); },
    c: copyDig,
    d: () => remove(true),
    x: () => remove(false),
    t: nextTheme,
    "?": showKeys,
  };
  document.addEventListener("keydown", (e) => {
    if (e.defaultPrevented || e.altKey || e.ctrlKey || e.metaKey || document.querySelector("dialog[open]")) return;
    const inField = e.target.matches("input, textarea");
    if (e.key === "Escape") {
      if (inField && (state.text || state.statuses.size)) clearFilter();
      else if (inField) $("instances").focus();
      else if (document.body.classList.contains("show-services")) showServices(false);
      else closePanel();
      return;
    }
    if (inField || !single.checked || !does[e.key]) return;
    e.preventDefault();
    does[e.key]();
  });
}
