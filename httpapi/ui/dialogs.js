// Questions to the person.

import { $, h, put } from "./dom.js";

const waiting = new Map(); // by dialog: who waits for its answer

/** opened shows a dialog and returns what it was closed with: "" for no. */
function opened(dialog) {
  waiting.get(dialog)?.(""); // it was closed a moment ago, and has not said so yet
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => waiting.set(dialog, resolve));
}

for (const dialog of document.querySelectorAll("dialog")) {
  dialog.addEventListener("close", () => {
    if (dialog.open) return; // the question before this one was closed
    waiting.get(dialog)?.(dialog.returnValue);
    waiting.delete(dialog);
  });
}

/** confirmed asks before something is done. */
export async function confirmed({ title, text, yes }) {
  put($("confirm-title"), title);
  put($("confirm-text"), text);
  put($("confirm-yes"), yes);
  return await opened($("confirm")) === "yes";
}

// Enter in the field means the form's first submit button, so this is none.
$("token-cancel").addEventListener("click", () => $("token-dialog").close(""));

/** askToken asks for one, and returns it, or "". */
export async function askToken(detail, refused) {
  put($("token-title"), refused ? "The token was refused" : "This server asks for a token");
  put($("token-text"), sentence(detail));
  const input = $("token");
  input.value = "";
  const answer = await opened($("token-dialog"));
  const token = input.value.trim();
  input.value = ""; // it is in no element for longer than needed
  return answer === "yes" ? token : "";
}

/** sentence makes one of what the API says. */
export function sentence(detail) {
  const text = detail.charAt(0).toUpperCase() + detail.slice(1);
  return /[.!?]$/.test(text) ? text : `${text}.`;
}

export const keys = [
  ["/", "go to the filter"],
  ["s", "go to the services"],
  ["i", "go to the instances"],
  ["↑ ↓ Home End", "move in a list"],
  ["Enter", "open what the list is at"],
  ["Esc", "clear the filter, leave it; close the details"],
  ["c", "copy the dig line of what is open"],
  ["d", "drain the instance that is open"],
  ["x", "deregister it"],
  ["t", "another theme"],
  ["?", "this list"],
];

/** showKeys lists the shortcuts. */
export function showKeys() {
  $("keys-list").replaceChildren(...keys.map(([key, what]) => h("div", {}, h("dt", {}, h("kbd", {}, key)), h("dd", {}, what))));
  return opened($("keys-dialog"));
}
