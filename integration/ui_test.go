package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/performance"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/miekg/dns"
)

// The page at /ui/ in a real browser.
func TestPage(t *testing.T) {
	t.Parallel()
	browser := startBrowser(t)
	for name, f := range map[string]func(*testing.T, context.Context){
		"Churn":         testPageChurn,
		"Connection":    testPageConnection,
		"Cut":           testPageCut,
		"CutOff":        testPageCutOff,
		"Token":         testPageToken,
		"Keyboard":      testPageKeyboard,
		"Leases":        testPageLeases,
		"Filter":        testPageFilter,
		"Text":          testPageText,
		"Accessibility": testPageAccessibility,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(t, browser)
		})
	}
}

// fill registers n instances: half in one service, the others ten to a service.
func (r *roster) fill(t *testing.T, n int) {
	t.Helper()
	var group sync.WaitGroup
	const workers = 16
	for w := range workers {
		group.Go(func() {
			for k := w; k < n; k += workers {
				service, id := instanceOf(k, n)
				body := fmt.Sprintf(`{"address":"10.%d.%d.%d","port":8080,"ttl":3600,"tags":["v%d"],"meta":{"k":"%d"}}`, k>>16, k>>8&255, k&255, k%7, k)
				if status, b, err := r.call(http.MethodPut, "/v1/services/"+service+"/instances/"+id, body); status != 201 {
					t.Errorf("register %s/%s: %d %s %v", service, id, status, b, err)
					return
				}
			}
		})
	}
	group.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

func instanceOf(k, n int) (service, id string) {
	if k < n/2 {
		return "large", fmt.Sprintf("i%05d", k)
	}
	return fmt.Sprintf("s%04d", k/10), fmt.Sprintf("i%05d", k)
}

// churn makes n changes, a hundred a second, each of which is one event. Two
// thirds are of instances in the part of the list that is on screen.
func (r *roster) churn(t *testing.T, n, instances int) {
	t.Helper()
	began := time.Now()
	for k := range n {
		<-time.After(time.Until(began.Add(time.Duration(k) * 10 * time.Millisecond))) // late ones catch up
		at := k / 4 * 7919 % instances
		if k/4%3 > 0 {
			at = k / 4 * 31 % 40
		}
		service, id := instanceOf(at, instances)
		method, body := http.MethodPut, ""
		switch k % 4 {
		case 0:
			body = fmt.Sprintf(`{"address":"10.9.0.1","port":8080,"ttl":3600,"weight":%d,"meta":{"at":"%d"}}`, 1+k%60, k)
		case 1:
			body = fmt.Sprintf(`{"address":"10.9.0.3","ttl":3600,"priority":%d,"tags":["t%d"]}`, 10+k%2, k)
		case 2:
			method = http.MethodDelete
		case 3:
			body = fmt.Sprintf(`{"address":"10.9.0.2","port":8081,"ttl":3600,"meta":{"at":"%d"}}`, k)
		}
		path := "/v1/services/" + service + "/instances/" + id
		if status, b, err := r.call(method, path, body); err != nil || status/100 != 2 {
			t.Fatalf("change %d of %s: %d %s %v", k, path, status, b, err)
		}
	}
}

// 10,000 instances, a hundred changes a second: the page misses none, has what
// the API has in the end, and shows it; and its scripts take less than half a
// core.
func testPageChurn(t *testing.T, browser context.Context) {
	const instances = 10_000
	last := 5 * time.Second
	if os.Getenv("ROSTER_TORTURE") == "1" {
		last = 30 * time.Second
	}
	r := startRoster(t, t.TempDir(), "--store", "memory:")
	r.fill(t, instances)
	// A row that was on screen may be gone when its lease is asked for.
	p := openPage(t, browser, r, desktop, "", "a status of 404 (Not Found) http://"+r.http+"/v1/services/")
	p.shows("all instances", fmt.Sprint("model.counts.total === ", instances))
	before, began := p.metrics(), time.Now()
	made := int(last / (10 * time.Millisecond))
	r.churn(t, made, instances)
	after, took := p.metrics(), time.Since(began)
	p.shows("the last change", fmt.Sprint("model.revision === ", r.revision(t)))
	if got := p.number("model.changes"); int(got) != made {
		t.Errorf("the page took in %v changes, %d were made", got, made)
	}
	if got := p.number("model.resets"); got != 1 {
		t.Errorf("the state was read %v times", got)
	}
	script := (after["ScriptDuration"] - before["ScriptDuration"]) / took.Seconds()
	t.Logf("%d changes in %v: scripts took %.1f %% of a core, all of the page's thread %.1f %%; %v looks at leases; heap %.1f MB",
		made, took.Round(time.Millisecond), 100*script, 100*(after["TaskDuration"]-before["TaskDuration"])/took.Seconds(), p.number("leases.looks"), after["JSHeapUsedSize"]/1e6)
	if script > 0.5 {
		t.Errorf("scripts took %.2f of a core", script)
	}
	if n := p.number(`document.querySelectorAll("#instances .row").length`); n > 60 {
		t.Errorf("%v rows are in the document", n)
	}
	p.equalsAPI(instances)
	p.rowsAreRight()
}

// metrics are the renderer's, durations in seconds.
func (p *page) metrics() map[string]float64 {
	p.Helper()
	all := map[string]float64{}
	p.run(chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		if _, err := cdp.Call(ctx, t, performance.Enable, performance.EnableParams{}); err != nil {
			return err
		}
		list, err := cdp.Call(ctx, t, performance.GetMetrics, cdp.Empty{})
		for _, m := range list.Metrics {
			all[m.Name] = m.Value
		}
		return err
	}))
	return all
}

// revision is the registry's.
func (r *roster) revision(t *testing.T) uint64 {
	t.Helper()
	return r.must(t, http.MethodGet, "/v1/services", "").Revision
}

// state is all that the API lists, without the ends of leases.
func (r *roster) state(t *testing.T) map[string]any {
	t.Helper()
	all := map[string]any{}
	_, b, err := r.call(http.MethodGet, "/v1/services", "")
	var list struct{ Services []struct{ Name string } }
	if err != nil || json.Unmarshal(b, &list) != nil {
		t.Fatalf("list the services: %s %v", b, err)
	}
	for _, s := range list.Services {
		_, b, err := r.call(http.MethodGet, "/v1/services/"+s.Name, "")
		var service struct{ Instances []map[string]any }
		if err != nil || json.Unmarshal(b, &service) != nil {
			t.Fatalf("list %s: %s %v", s.Name, b, err)
		}
		for _, i := range service.Instances {
			delete(i, "expires")
			all[fmt.Sprint(i["service"], "/", i["id"])] = i
		}
	}
	return all
}

// equalsAPI compares the page's model with the API's state, and its counts.
func (p *page) equalsAPI(instances int) {
	p.Helper()
	var got map[string]any
	p.read(`Object.fromEntries([...model.services.values()].flatMap((s) => [...s.instances.values()]).map((i) => {
		const { expires, ends, asOf, text, ...rest } = i;
		return [i.service + "/" + i.id, rest];
	}))`, &got)
	want := p.server.state(p.T)
	if len(want) != instances {
		p.Fatalf("%d instances are registered, want %d", len(want), instances)
	}
	for key := range want {
		if !reflect.DeepEqual(got[key], want[key]) {
			p.Errorf("the page has %s as\n%v, the API as\n%v", key, got[key], want[key])
		}
	}
	if len(got) != len(want) {
		p.Errorf("the page has %d instances, the API %d", len(got), len(want))
	}
	var counts map[string]float64
	p.read("model.counts", &counts)
	for _, i := range want {
		counts["total"]--
		counts[i.(map[string]any)["status"].(string)]--
	}
	for name, n := range counts {
		if n != 0 {
			p.Errorf("the page counts %v too many that are %s", n, name)
		}
	}
}

// rowsAreRight compares what stands in the rows, once it is drawn, with what
// the model has at their place.
func (p *page) rowsAreRight() {
	p.Helper()
	p.shows("rows as the model has them", `[...document.querySelectorAll("#instances .row:not([hidden])")].every((row, _, rows) => {
		const all = [...model.services.values()].flatMap((s) => [...s.instances.values()])
			.sort((a, b) => a.service === b.service ? (a.id < b.id ? -1 : 1) : a.service < b.service ? -1 : 1);
		const i = all[row.getAttribute("aria-posinset") - 1];
		return rows.length > 10 && row.querySelector(".id").textContent === i.id && row.querySelector(".service").textContent === i.service
			&& row.querySelector(".address").textContent === i.addresses[0] + (i.port ? ":" + i.port : "")
			&& row.querySelector(".tags").textContent === (i.tags ?? []).join("  ") && row.getAttribute("aria-setsize") === String(all.length);
	})`)
}

// The server goes away and comes back: the page says so, both times, and goes
// on from where it was.
func testPageConnection(t *testing.T, browser context.Context) {
	dir := t.TempDir()
	r := startRoster(t, dir)
	r.register(t, "web", "a1", `{"address":"10.0.0.1","permanent":true}`)
	p := openPage(t, browser, r, desktop, "", "net::ERR_CONNECTION_REFUSED", "net::ERR_INCOMPLETE_CHUNKED_ENCODING", "net::ERR_EMPTY_RESPONSE", "net::ERR_CONNECTION_RESET")
	p.visible("#link", "Live")
	p.visible("#instances .id", "a1")
	r.stop(t)
	p.visible("#lost", "Connection lost. The server does not answer. What you see is from ")
	p.visible("#lost", "Trying again in ")
	p.visible("#link", "Connection lost")
	p.visible("#instances .id", "a1")
	p.shows("rows that are seen not to be live", `document.body.classList.contains("stale")`)
	p.shows("it is said to who cannot see it", `document.querySelector("#whisper").textContent.startsWith("Connection lost.")`)

	again := startRoster(t, dir, "--http", r.http)
	again.register(t, "web", "a2", `{"address":"10.0.0.2"}`)
	p.visible("#link", "Live")
	p.visible("#say", "The connection is back.")
	p.visible("#instances .id", "a2")
	p.shows("no banner", `document.querySelector("#lost").hidden && !document.body.classList.contains("stale")`)

	// A cut that is over at once is none of the person's business.
	p.read(`(window.banners = 0, new MutationObserver(([m]) => { window.banners += !m.target.hidden }).observe(document.querySelector("#lost"), { attributes: true }), 0)`, new(int))
	resets := p.number("model.resets")
	p.shows("a steady connection", `(window.since ??= performance.now()) < performance.now() - 2200`)
	p.read(`(await import("/ui/app.js")).api.forget() ?? 0`, new(int))
	again.register(t, "web", "a3", `{"address":"10.0.0.3"}`)
	p.visible("#instances .id", "a3")
	if n := p.number("window.banners"); n != 0 || p.number("model.resets") != resets+1 {
		t.Errorf("a connection made anew showed %v banners, after %v resets more", n, p.number("model.resets")-resets)
	}
}

// A connection that is cut while the server goes on is made anew at once: the
// page says nothing, and gets what it has missed, not all the state again.
func testPageCut(t *testing.T, browser context.Context) {
	r := startRoster(t, t.TempDir(), "--store", "memory:")
	r.register(t, "web", "a1", `{"address":"10.0.0.1","permanent":true}`)
	cut := r.between(t)
	p := openPage(t, browser, r, desktop, "", "net::ERR_")
	p.visible("#instances .id", "a1")
	p.shows("a steady connection", `(window.since ??= performance.now()) < performance.now() - 2500`)
	p.read(`(window.banners = 0, new MutationObserver(([m]) => { window.banners += !m.target.hidden }).observe(document.querySelector("#lost"), { attributes: true }), 0)`, new(int))
	for _, id := range []string{"a2", "a3"} {
		cut(func() { r.register(t, "web", id, `{"address":"10.0.0.2","permanent":true}`) })
		p.visible("#instances .id", id)
		p.shows("a steady connection", `(window["since`+id+`"] ??= performance.now()) < performance.now() - 2500`)
	}
	if resets, changes, banners := p.number("model.resets"), p.number("model.changes"), p.number("window.banners"); resets != 1 || changes != 2 || banners != 0 {
		t.Errorf("after two cuts: the state was read %v times, %v changes were taken in, %v banners shown", resets, changes, banners)
	}
}

// The server is cut off from its etcd and in touch again: the page says so, both
// times, and between them says nothing else, whatever becomes of its connection.
func testPageCutOff(t *testing.T, browser context.Context) {
	url, etcd := runEtcd(t)
	r := startRoster(t, t.TempDir(), "--store", "etcd://"+strings.TrimPrefix(url, "http://")+"/roster")
	r.register(t, "web", "a1", `{"address":"10.0.0.1","permanent":true}`)
	cut := r.between(t)
	p := openPage(t, browser, r, desktop, "", "net::ERR_")
	p.visible("#link", "Live")
	p.visible("#instances .id", "a1")
	p.read(`(window.said = [], new MutationObserver(() => window.said.push(document.querySelector("#say").textContent))
		.observe(document.querySelector("#say"), { childList: true, characterData: true, subtree: true }), 0)`, new(int))
	p.read(`(window.states = [], new MutationObserver(([m]) => window.states.push(m.target.dataset.state))
		.observe(document.querySelector("#link"), { attributes: true, attributeFilter: ["data-state"] }), 0)`, new(int))
	heal := etcd.hold()
	p.visible("#link", "Cut off")
	p.visible("#lost", "This server is cut off from etcd. What you see is from ")
	p.visible("#lost", "Ask another server, or wait: it goes on by itself.")
	p.visible("#instances .id", "a1")
	p.shows("rows that are seen not to be live, and nothing to press", `document.body.classList.contains("stale") && !document.querySelector("#lost-button").checkVisibility()`)
	p.shows("it is said to who cannot see it", `document.querySelector("#whisper").textContent.startsWith("This server is cut off from etcd.")`)
	p.keep("cut off")

	p.shows("a steady connection", `(window.since ??= performance.now()) < performance.now() - 2500`)
	cut(func() {})
	p.shows("a new connection, which says the same", `/^cut,.*live,cut$/.test(window.states.join())`)
	p.visible("#lost", "This server is cut off from etcd.")
	if said := p.text("window.said.join()"); said != "" {
		t.Errorf("while the server is cut off, the page says %q", said)
	}

	heal()
	p.visible("#link", "Live")
	p.visible("#say", "The server is in touch again. What you see is live.")
	p.shows("no banner", `document.querySelector("#lost").hidden && !document.body.classList.contains("stale")`)
	until(t, 10*time.Second, "it takes registrations", func() bool {
		status, _, err := r.call(http.MethodPut, "/v1/services/web/instances/a2", `{"address":"10.0.0.2","permanent":true}`)
		return err == nil && status < 300
	})
	p.visible("#instances .id", "a2")
	if n := p.number("model.resets"); n != 1 {
		t.Errorf("the state was read %v times", n)
	}
}

// between puts a proxy before the server. The function that it returns cuts
// all connections, and lets new ones through when f has returned.
func (r *roster) between(t *testing.T) (cut func(f func())) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := r.http
	r.http = l.Addr().String()
	var mu sync.Mutex
	var open []net.Conn // guarded by mu
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			s, err := net.Dial("tcp", server)
			if err != nil {
				c.Close()
			} else {
				open = append(open, c, s)
				go func() { _, _ = io.Copy(s, c); s.Close() }()
				go func() { _, _ = io.Copy(c, s); c.Close() }()
			}
			mu.Unlock()
		}
	}()
	stop := func() {
		for _, c := range open {
			c.Close()
		}
		open = nil
	}
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		defer mu.Unlock()
		stop()
	})
	return func(f func()) {
		mu.Lock()
		defer mu.Unlock()
		stop()
		r.http, server = server, r.http
		f()
		r.http, server = server, r.http
	}
}

// A token is asked for, is refused where it is wrong, is kept in the tab alone,
// and shows what it may.
func testPageToken(t *testing.T, browser context.Context) {
	dir := t.TempDir()
	file := filepath.Join(dir, "tokens.yaml")
	reader, readerEntry := newToken(t, "--name", "reader", "--service", "web", "--action", "read")
	writer, writerEntry := newToken(t, "--name", "writer")
	write(t, file, "tokens:\n"+readerEntry+writerEntry)
	r := startRoster(t, dir, "--store", "memory:", "--tokens", file)
	for _, service := range []string{"web", "db"} {
		if status := r.with(t, writer, http.MethodPut, "http://"+r.http+"/v1/services/"+service+"/instances/"+service+"-1"); status != 201 {
			t.Fatalf("register %s: %d", service, status)
		}
	}
	p := openPage(t, browser, r, desktop, "", "a status of 401 (Unauthorized)", "a status of 403 (Forbidden)")
	p.visible("dialog[open] h2", "This server asks for a token")
	p.visible("dialog[open] p", "Authorization: Bearer TOKEN")
	p.keys("wrong", kb.Enter)
	p.visible("dialog[open] h2", "The token was refused")
	p.keys(kb.Escape)
	p.visible("#lost", "The registry is not open to you. This token is not known here")
	p.run(chromedp.Click(chromedp.CSS("#lost-button")))
	p.visible("dialog[open] h2", "The token was refused")
	p.keys(reader, kb.Enter)
	p.visible("#instances .id", "web-1")
	if n := p.number("model.counts.total"); n != 1 {
		t.Errorf("a token for web shows %v instances", n)
	}
	for _, place := range []string{"JSON.stringify({ ...localStorage })", "document.cookie", "location.href", "document.documentElement.outerHTML", `document.querySelector("#token").value`} {
		if got := p.text(place); strings.Contains(got, reader) {
			t.Errorf("the token is in %s: %s", place, got)
		}
	}

	p.keys("i", kb.Home, kb.Enter, "x")
	p.confirm("Deregister web-1 of web?")
	p.visible("#say", `web-1 was not deregistered: Reader lacks the right "register"`)
	p.run(chromedp.Reload())
	p.visible("#instances .id", "web-1")

	p.run(chromedp.Click(chromedp.CSS("#forget")))
	p.visible("dialog[open] h2", "This server asks for a token")
	if got := p.text("JSON.stringify({ ...sessionStorage })"); got != "{}" {
		t.Errorf("after it was forgotten, the session has %s", got)
	}
	p.keys(writer, kb.Enter)
	p.visible("#services .name", "db")
}

// All that a mouse can do the keyboard can: find, open, copy, drain and
// deregister, with a confirmation that can be declined.
func testPageKeyboard(t *testing.T, browser context.Context) {
	r := startRoster(t, t.TempDir(), "--store", "memory:")
	for _, id := range []string{"a1", "a2", "a3"} {
		r.register(t, "web", id, `{"address":"10.0.0.1","port":80}`)
	}
	r.register(t, "db", "b1", `{"address":"10.0.0.2","permanent":true}`)
	if _, err := ask(r.dns, "web.service.", dns.TypeA); err != nil { // so that somebody has an address that is to be forgotten
		t.Fatal(err)
	}
	p := openPage(t, browser, r, desktop, "")
	p.visible("#instances .id", "a3")

	// The order in which Tab goes.
	var order []string
	for range 11 {
		p.keys(kb.Tab)
		order = append(order, p.focused())
	}
	if got, want := strings.Join(order, ", "), "skip, theme, keys, services, filter, up 4, starting 0, down 0, draining 0, instances, Hold"; got != want {
		t.Errorf("Tab goes to %s; want %s", got, want)
	}

	p.keys("s", kb.ArrowDown, kb.ArrowDown, kb.Enter)
	p.visible("#list-title", "web")
	p.keys("/", "a2")
	p.visible("#matches", "1 of 3 instances")
	p.keys(kb.Escape)
	p.visible("#matches", "3 instances")
	p.keys(kb.Escape, kb.End, kb.Enter)
	p.visible("#panel-title", "a3")
	p.keys(kb.ArrowUp)
	p.visible("#panel-title", "a2")
	if got := p.text(`document.getElementById(document.querySelector("#instances").getAttribute("aria-activedescendant")).getAttribute("aria-label")`); got != "a2, up, 10.0.0.1:80, priority 10, weight 10" {
		t.Errorf("a screen reader is told of %q", got)
	}

	p.keys("d")
	p.visible("dialog[open] h2", "Drain a2 of web?")
	p.keys(kb.Enter) // the first button declines
	p.shows("the focus back in the list", `document.activeElement.id === "instances"`)
	p.keys("d", kb.Escape, "d")
	if got := r.statuses(t); got != "up up up" {
		t.Errorf("declined, and yet: %s", got)
	}
	p.confirm("Drain a2 of web?")
	p.visible("#say", "a2 is draining. The last cache has forgotten it at ")
	p.visible("#panel .badge", "Draining")
	if got := r.statuses(t); got != "up draining up" {
		t.Errorf("after draining: %s", got)
	}
	p.keys(kb.ArrowDown, "x")
	p.confirm("Deregister a3 of web?")
	p.visible("#say", "a3 is deregistered.")
	p.visible("#panel .status-line", "It is not registered: it was deregistered at ")
	if got := r.statuses(t); got != "up draining" {
		t.Errorf("after deregistering: %s", got)
	}
	p.keys(kb.Escape)
	p.visible("#panel-title", "web")
	p.keys("?")
	p.visible("dialog[open] dt", "/")
	p.keys(kb.Escape, "t", "t")
	p.visible("#theme", "Theme: dark")
	if got := p.text(`getComputedStyle(document.body).backgroundColor`); got != "rgb(19, 21, 24)" {
		t.Errorf("in the dark the page is %s", got)
	}
	p.run(chromedp.Reload())
	p.visible("#theme", "Theme: dark")
	p.visible("#list-title", "web") // the address has it
}

// statuses are those of web's instances, in order.
func (r *roster) statuses(t *testing.T) string {
	t.Helper()
	_, b, err := r.call(http.MethodGet, "/v1/services/web", "")
	var list struct{ Instances []struct{ Status string } }
	if err != nil || json.Unmarshal(b, &list) != nil {
		t.Fatalf("list web: %s %v", b, err)
	}
	var all []string
	for _, i := range list.Instances {
		all = append(all, i.Status)
	}
	return strings.Join(all, " ")
}

// A lease runs down on the screen, and jumps back with a heartbeat, which is no
// event; a lease that ends takes its row away.
func testPageLeases(t *testing.T, browser context.Context) {
	r := startRoster(t, t.TempDir(), "--store", "memory:")
	r.register(t, "web", "a1", `{"address":"10.0.0.1","ttl":10}`)
	r.register(t, "web", "a2", `{"address":"10.0.0.2","permanent":true}`)
	p := openPage(t, browser, r, desktop, "#/web/a1")
	const width = `new DOMMatrix(document.querySelector('#instances .row[aria-label^="a1,"] .lease .fill')?.style.transform ?? 'scale(0)').a`
	p.visible("#instances .id", "a1")
	r.register(t, "web", "a1", `{"address":"10.0.0.1","ttl":10}`) // a browser on a busy machine may take seconds to start
	p.shows("a lease that is nearly whole", width+" > 0.7")
	p.shows("a lease that has run down", width+" < 0.65")
	p.visible("#panel .lease-line", "6 s left of 10 s")
	p.visible("#instances .lease", "permanent")
	r.must(t, http.MethodPut, "/v1/services/web/instances/a1/heartbeat", "")
	p.shows("a lease that has jumped back", width+" > 0.7")
	if n := p.number("model.changes"); n != 0 {
		t.Errorf("a heartbeat was %v events", n)
	}
	p.visible("#panel .status-line", "It is not registered: its lease ended at ")
	p.visible("#panel .events", "expire")
	p.visible("#matches", "1 instance")
}

// The filter finds words anywhere, in all of 10,000 instances, and what it
// leaves can be scrolled to the end.
func testPageFilter(t *testing.T, browser context.Context) {
	const instances = 10_000
	r := startRoster(t, t.TempDir(), "--store", "memory:")
	p := openPage(t, browser, r, desktop, "", "a status of 404")
	p.visible("#nothing", "No services yet")
	p.visible("#nothing", "curl -X PUT --json '{\"port\":8080}' http://"+r.http+"/v1/services/web/instances/a1")
	r.fill(t, instances)
	r.register(t, "large", "i00003", `{"address":"10.0.0.3","port":1,"meta":{"Region":"north"}}`)
	p.visible("#matches", "10\u202f000 instances")
	p.read(`(window.longest = 0, new PerformanceObserver((l) => { for (const e of l.getEntries()) window.longest = Math.max(window.longest, e.duration) })
		.observe({ type: "longtask" }), 0)`, new(int))
	p.keys("/")
	for _, c := range []struct{ text, want string }{{"region=NORTH", "1 of 10\u202f000"}, {"v3 large", "713 of 10\u202f000"}, {"10.0.1.7:8080", "1 of 10\u202f000"}, {"nobody", "0 of 10\u202f000"}} {
		p.read(`document.querySelector("#filter").select() ?? 0`, new(int))
		p.keys(c.text)
		p.visible("#matches", c.want)
	}
	p.visible("#nothing", "No instance matches")
	p.keys(kb.Escape)
	p.visible("#matches", "10\u202f000 instances")
	p.keys(kb.Escape, kb.End)
	p.visible("#instances .row.active .id", "i09999")
	p.keys(kb.PageUp, kb.Home)
	p.visible("#instances .row.active .id", "i00000")
	p.run(chromedp.Click(chromedp.CSS(`#chips button:nth-child(3)`)))
	p.visible("#matches", "0 of 10\u202f000")
	t.Logf("the longest task of all this took %.0f ms", p.number("window.longest"))
	if ms := p.number("window.longest"); ms > 1000 {
		t.Errorf("a task took %.0f ms", ms)
	}
}

// What comes from the registry is text, whatever it looks like.
func testPageText(t *testing.T, browser context.Context) {
	r := startRoster(t, t.TempDir(), "--store", "memory:")
	const nasty = `<img src=x onerror=alert(1)>`
	r.register(t, "web", "%3Cb%3E%2F%22x%22", `{"address":"10.0.0.1","tags":["<img src=x onerror=alert(1)>"],"meta":{"<b>":"<img src=x onerror=alert(1)>"}}`)
	p := openPage(t, browser, r, desktop, "")
	p.visible("#instances .id", `<b>/"x"`)
	p.visible("#instances .tags", nasty)
	p.keys("i", kb.Home, kb.Enter)
	p.visible("#panel dd", "<b>="+nasty)
	p.visible("#panel-title", `<b>/"x"`)
	p.run(chromedp.Reload())
	p.visible("#panel-title", `<b>/"x"`)
	if n := p.number(`document.querySelectorAll("b, img:not(.top img)").length`); n != 0 {
		t.Errorf("%v elements came from the registry", n)
	}
	p.keys("x")
	p.confirm(`Deregister <b>/"x" of web?`)
	p.visible("#nothing", "No services yet")
}
