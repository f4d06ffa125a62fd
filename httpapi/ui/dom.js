// Elements without markup: what comes from the registry is only ever text.

/** $ returns the element with an id. */
export const $ = (id) => document.getElementById(id);

/** h makes an element. Attributes that begin with "on" are listeners; null and
 * false leave one out. */
export function h(name, attributes, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** svg makes an element of a drawing. */
export function svg(name, attributes, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === false || value === undefined) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((c) => c !== null && c !== undefined && c !== false));
  return element;
}

/** put sets an element's text where it differs: most updates change little. */
export function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** mark sets an attribute where it differs. */
export function mark(element, name, value) {
  if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

/** replace builds an element's content anew where the signature, which says all
 * that the content depends on, has changed. The focus stays on the control with
 * the same data-key. */
export function replace(element, signature, build) {
  if (element.signature === signature) return;
  element.signature = signature;
  const focused = element.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  element.replaceChildren(...[build()].flat().filter(Boolean));
  if (focused) [...element.querySelectorAll("[data-key]")].find((e) => e.dataset.key === focused)?.focus();
}

/** copy puts text on the clipboard. Over plain HTTP browsers have no
 * navigator.clipboard but for localhost; there a selection is copied. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const before = document.activeElement;
    const area = h("textarea", { class: "hidden", "aria-hidden": "true", readonly: true });
    area.value = text;
    (before?.closest("dialog") ?? document.body).append(area);
    area.select();
    const copied = document.execCommand("copy");
    area.remove();
    before?.focus();
    return copied;
  }
}
