package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/chromedp/cdproto/accessibility"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// testPageAccessibility looks at the page in each of its states, in light and
// dark, on a desktop and a phone: names of all controls, contrast of all text,
// landmarks, the order of headings and of the focus.
func testPageAccessibility(t *testing.T, browser context.Context) {
	for name, s := range map[string]size{"desktop": desktop, "phone": phone} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := startRoster(t, t.TempDir(), "--store", "memory:")
			p := openPage(t, browser, r, s, "", "net::ERR_")
			p.visible("#nothing", "No services yet")
			p.accessible("nothing there", 1)
			r.register(t, "web", "a1", `{"addresses":["10.0.0.1","fd00::1"],"port":80,"ports":{"metrics":9100},"tags":["v1"],"meta":{"k":"v"},"check":{"type":"tcp","interval":60}}`)
			r.register(t, "web", "a2", `{"address":"10.0.0.2","port":80,"ttl":6000}`)
			r.register(t, "web", "a3", `{"address":"10.0.0.3","port":80,"priority":20}`)
			for id, status := range map[string]string{"a4": "down", "a5": "draining"} {
				r.register(t, "web", id, `{"address":"10.0.0.4","permanent":true}`)
				r.must(t, "PUT", "/v1/services/web/instances/"+id+"/heartbeat", `{"status":"`+status+`"}`)
			}
			p.visible("#instances .id", "a5")
			p.accessible("the list", 5)
			p.run(chromedp.Click(chromedp.CSS(`#instances .row[aria-posinset="1"]`)))
			p.visible("#panel .kind", "register")
			p.accessible("an instance that is starting", 8)
			p.keys("c")
			p.visible("#say", "Copied: dig @")
			p.accessible("a message", 8)
			p.keys("x")
			p.visible("dialog[open] h2", "Deregister a1 of web?")
			p.accessible("a question", 1)
			p.keys(kb.Escape, "?")
			p.visible("dialog[open] h2", "Keys")
			p.accessible("the keys", 1)
			p.keys(kb.Escape, kb.Escape, "i", kb.End, kb.Enter)
			p.visible("#panel-title", "a5")
			p.accessible("an instance that is draining", 8)
			p.keys(kb.Escape, "/")
			p.keys("nobody")
			p.visible("#nothing", "No instance matches")
			p.accessible("a filter that leaves nothing", 2)
			p.keys(kb.Escape)
			p.run(chromedp.Click(chromedp.CSS(`#chips button`)))
			p.visible("#matches", "2 of 5")
			p.accessible("a filter that is pressed", 5)
			r.stop(t)
			p.visible("#lost", "Connection lost.")
			p.accessible("the connection lost", 5)
		})
	}
}

// accessible checks one state of the page, which has so many controls at least.
func (p *page) accessible(state string, controls int) {
	p.Helper()
	p.named(state, controls)
	for _, dark := range []bool{false, true} {
		p.dark(dark)
		p.keep(fmt.Sprint(state, ", dark ", dark))
		var faint []string
		p.read(contrast, &faint)
		for _, text := range faint {
			p.Errorf("%s, dark %v: %s", state, dark, text)
		}
	}
	var wrong []string
	p.read(structure, &wrong)
	for _, text := range wrong {
		p.Errorf("%s: %s", state, text)
	}
}

// named reads the tree that assistive programs get: each thing that can be used
// has a name.
func (p *page) named(state string, least int) {
	p.Helper()
	used := map[string]bool{"button": true, "link": true, "textbox": true, "searchbox": true, "checkbox": true, "listbox": true, "option": true,
		"dialog": true, "navigation": true, "complementary": true, "image": true, "heading": true, "group": true}
	var tree accessibility.GetFullAXTreeResult
	p.run(chromedp.Func(func(ctx context.Context, t *chromedp.Target) (err error) {
		tree, err = cdp.Call(ctx, t, accessibility.GetFullAXTree, accessibility.GetFullAXTreeParams{})
		return err
	}))
	n := 0
	for _, node := range tree.Nodes {
		if node.Ignored || node.Role == nil || !used[text(node.Role)] {
			continue
		}
		n++
		if text(node.Name) == "" {
			p.Errorf("%s: a %s (DOM node %d) has no name", state, text(node.Role), node.BackendDOMNodeID)
		}
	}
	if n < least {
		p.Errorf("%s: only %d controls in the tree", state, n)
	}
}

func text(v *accessibility.Value) string {
	if v == nil {
		return ""
	}
	var s string
	_ = json.Unmarshal(v.Value, &s) // no text: no name
	return s
}

// contrast lists what text has less than 4.5 to 1 (WCAG 2.2, 1.4.3) to what is
// behind it, opacities and half-transparent colours worked in.
const contrast = `(() => {
	const rgba = (text) => {
		const n = text.match(/[\d.]+/g).map(Number);
		if (!text.startsWith("rgb")) throw new Error("a color that this test cannot read: " + text);
		return [n[0], n[1], n[2], n[3] ?? 1];
	};
	const over = (top, a, under) => under.map((u, k) => u * (1 - a) + top[k] * a);
	const luminance = (c) => [0.2126, 0.7152, 0.0722].reduce((sum, w, k) => {
		const v = c[k] / 255;
		return sum + w * (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
	}, 0);
	const canvas = matchMedia("(prefers-color-scheme: dark)").matches ? [18, 18, 18] : [255, 255, 255];
	const paint = (chain, at, under, ink) => {
		if (at === chain.length) return ink ? over(ink, ink[3], under) : under;
		const bg = rgba(chain[at].backgroundColor);
		return over(paint(chain, at + 1, over(bg, bg[3], under), ink), Number(chain[at].opacity), under);
	};
	const faint = [];
	const check = (element, text, color) => {
		const chain = [];
		for (let e = element; e; e = e.parentElement) {
			chain.unshift(getComputedStyle(e));
			if (e.matches("dialog[open]")) break; // in the top layer
		}
		const [a, b] = [paint(chain, 0, canvas, rgba(color)), paint(chain, 0, canvas, null)].map(luminance);
		const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
		if (!(ratio >= 4.5)) faint.push(JSON.stringify(text) + " in " + element.tagName + "." + element.className + " has " + ratio.toFixed(2));
	};
	const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
	let texts = 0;
	while (walker.nextNode()) {
		const e = walker.currentNode.parentElement, text = walker.currentNode.data.trim();
		if (!text || !e.checkVisibility({ visibilityProperty: true }) || e.matches(".hidden, noscript *, noscript, script, option")) continue;
		texts++;
		check(e, text, getComputedStyle(e).color);
	}
	for (const input of document.querySelectorAll("input[placeholder]")) check(input, input.placeholder, getComputedStyle(input, "::placeholder").color);
	if (texts < 10) faint.push("only " + texts + " texts were found");
	return faint;
})()`

// structure lists what is wrong with landmarks, headings and the focus.
const structure = `(() => {
	const seen = (e) => e.checkVisibility({ visibilityProperty: true });
	const wrong = [];
	const shown = (selector) => [...document.querySelectorAll(selector)].filter(seen);
	if (document.querySelectorAll("main").length !== 1) wrong.push("no single main landmark");
	if (document.querySelectorAll("h1").length !== 1) wrong.push("no single h1");
	if (!document.documentElement.lang || !document.title) wrong.push("no language or no title");
	let level = 0;
	for (const e of shown("h1, h2, h3, h4, h5, h6")) {
		const at = Number(e.tagName[1]);
		if (at > level + 1) wrong.push(e.tagName + " " + e.textContent + " comes after h" + level);
		level = at;
	}
	for (const e of document.querySelectorAll("[tabindex]")) if (e.tabIndex > 0) wrong.push("a positive tabindex: " + e.outerHTML);
	const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
	if (new Set(ids).size !== ids.length) wrong.push("an id is there twice");
	for (const name of ["aria-labelledby", "aria-describedby", "aria-controls", "aria-activedescendant"]) {
		for (const e of document.querySelectorAll("[" + name + "]")) {
			for (const id of e.getAttribute(name).split(" ")) if (!document.getElementById(id)) wrong.push(name + " leads to no " + id);
		}
	}
	for (const e of document.querySelectorAll("[onclick], [style*=':']")) {
		if (e.hasAttribute("onclick")) wrong.push("an inline handler: " + e.outerHTML);
	}
	if (document.documentElement.scrollWidth > innerWidth) wrong.push("the page is " + document.documentElement.scrollWidth + " wide, the window " + innerWidth);
	for (const e of shown("button, input")) {
		const box = (e.closest("label") ?? e).getBoundingClientRect();
		if (box.width < 24 || box.height < 20) wrong.push("too small to hit: " + e.outerHTML.slice(0, 80) + " " + box.width + "x" + box.height);
	}
	return wrong;
})()`
