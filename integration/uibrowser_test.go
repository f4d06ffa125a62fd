package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// This file drives a real browser, without a screen.

// startBrowser starts one, for all the pages of a test.
func startBrowser(t *testing.T) context.Context {
	t.Helper()
	flags := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(tool(t, "chromium")), chromedp.DisableGPU, chromedp.UserDataDir(t.TempDir()))
	if os.Getuid() == 0 {
		flags = append(flags, chromedp.NoSandbox) // chromium refuses root otherwise
	}
	all, cancelAll := chromedp.NewExecAllocator(context.Background(), flags...)
	browser, cancel := chromedp.NewContext(all)
	t.Cleanup(func() {
		cancel()
		cancelAll()
	})
	if err := chromedp.Do(browser); err != nil {
		t.Fatalf("start chromium: %v", err)
	}
	return browser
}

// page is the page at /ui/ in a window of its own, with storage of its own.
type page struct {
	*testing.T
	ctx    context.Context
	server *roster

	mu       sync.Mutex
	troubles []string // guarded by mu
}

// size is what a window shows, in pixels of CSS.
type size struct{ width, height int64 }

var desktop, phone = size{1360, 860}, size{390, 844}

// openPage opens the page. Whatever goes wrong in it, but for answers of the
// server that its console lists and that match one of the expected texts,
// fails the test: what a script throws, what the console gets, what the policy
// forbids, and a request to anywhere else.
func openPage(t *testing.T, browser context.Context, r *roster, s size, path string, expected ...string) *page {
	t.Helper()
	ctx, cancel := chromedp.NewContext(browser, chromedp.WithNewBrowserContext())
	late := time.AfterFunc(2*time.Minute, cancel)
	p := &page{T: t, ctx: ctx, server: r}
	own := "http://" + r.http + "/"
	trouble := func(text string) {
		for _, e := range expected {
			if strings.Contains(text, e) {
				return
			}
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.troubles = append(p.troubles, text)
	}
	listen := func(ev any) {
		switch ev := ev.(type) {
		case *runtime.EventExceptionThrown:
			trouble(fmt.Sprintf("thrown: %s %s", ev.ExceptionDetails.Text, describe(ev.ExceptionDetails.Exception)))
		case *runtime.EventConsoleAPICalled:
			trouble(fmt.Sprintf("console.%s: %s", ev.Type, ev.Args[0].Value))
		case *log.EventEntryAdded:
			trouble(fmt.Sprintf("%s %s: %s %s", ev.Entry.Source, ev.Entry.Level, ev.Entry.Text, ev.Entry.URL))
		case *network.EventRequestWillBeSent:
			if !strings.HasPrefix(ev.Request.URL, own) {
				trouble("a request to " + ev.Request.URL)
			}
		}
	}
	t.Cleanup(func() {
		if t.Failed() {
			p.keep("failed")
		}
		late.Stop()
		cancel()
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, text := range p.troubles {
			t.Errorf("in the page, %s", text)
		}
	})
	if err := chromedp.Listen(ctx, listen); err != nil {
		t.Fatalf("listen to the page: %v", err)
	}
	focused := chromedp.Func(func(ctx context.Context, t *chromedp.Target) error { // as if it were the only window
		_, err := cdp.Call(ctx, t, emulation.SetFocusEmulationEnabled, emulation.SetFocusEmulationEnabledParams{Enabled: true})
		return err
	})
	p.run(focused, chromedp.EmulateViewport(s.width, s.height), chromedp.Navigate(own+"ui/"+path))
	return p
}

func describe(o *runtime.RemoteObject) string {
	if o == nil {
		return ""
	}
	return o.Description
}

// keep keeps what the page looks like, to be looked at, where ROSTER_KEEP names
// a folder for that.
func (p *page) keep(state string) {
	dir := os.Getenv("ROSTER_KEEP")
	if dir == "" {
		return
	}
	if shot, err := chromedp.Run(p.ctx, chromedp.CaptureScreenshot()); err == nil {
		_ = os.WriteFile(filepath.Join(dir, strings.ReplaceAll(p.Name()+" "+state, "/", "-")+".png"), shot, 0o600)
	}
}

func (p *page) run(steps ...chromedp.Action[chromedp.Void]) {
	p.Helper()
	if err := chromedp.Do(p.ctx, steps...); err != nil {
		p.Fatalf("the browser: %v", err)
	}
}

// read evaluates an expression, in which the page's model, leases and state
// are at hand, and stores what comes of it.
func (p *page) read(expression string, to any) {
	p.Helper()
	js := `(async () => { const { model, leases, state } = await import("/ui/app.js"); return JSON.stringify(` + expression + `) ?? "null" })()`
	text, err := chromedp.Run(p.ctx, chromedp.Evaluate[string](js, chromedp.EvalAwaitPromise))
	if err != nil {
		p.Fatalf("%s: %v", expression, err)
	}
	if err := json.Unmarshal([]byte(text), to); err != nil {
		p.Fatalf("%s is %s: %v", expression, text, err)
	}
}

func (p *page) text(expression string) (s string) {
	p.Helper()
	p.read(expression, &s)
	return s
}

func (p *page) number(expression string) (n float64) {
	p.Helper()
	p.read(expression, &n)
	return n
}

// shows waits until an expression is true.
func (p *page) shows(what, expression string) {
	p.Helper()
	until(p.T, time.Minute, what, func() (ok bool) {
		p.read("Boolean("+expression+")", &ok)
		return ok
	})
}

// visible waits until an element can be seen and has the text.
func (p *page) visible(selector, text string) {
	p.Helper()
	want, err := json.Marshal(text)
	if err != nil {
		p.Fatal(err)
	}
	p.shows(fmt.Sprintf("%s shows %q", selector, text), fmt.Sprintf(
		`[...document.querySelectorAll(%q)].some((e) => e.checkVisibility({ visibilityProperty: true, opacityProperty: true }) && e.textContent.includes(%s))`, selector, want))
}

// keys presses keys, one after the other; each is a text or a name of kb. A key
// types its character as one of a keyboard does, unless the page prevents it:
// chromedp's own way of pressing would type it all the same.
func (p *page) keys(keys ...string) {
	p.Helper()
	p.run(chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		for _, r := range strings.Join(keys, "") {
			events := kb.Encode(r)
			if down := events[0]; len(events) == 3 {
				down.Text, down.UnmodifiedText = events[1].Text, events[1].UnmodifiedText
			}
			for _, e := range []*input.DispatchKeyEventParams{events[0], events[len(events)-1]} {
				if _, err := cdp.Call(ctx, t, input.DispatchKeyEvent, *e); err != nil {
					return err
				}
			}
		}
		return nil
	}))
}

// focused is the element that has the focus: its id, or else its name.
func (p *page) focused() string {
	p.Helper()
	return p.text(`(document.activeElement.id || document.activeElement.getAttribute("aria-label") || document.activeElement.textContent).trim()`)
}

// dark chooses what the system is said to prefer.
func (p *page) dark(on bool) {
	p.Helper()
	scheme := "light"
	if on {
		scheme = "dark"
	}
	p.run(chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
		return err
	}))
}

// confirm answers the question that is open with its second button.
func (p *page) confirm(title string) {
	p.Helper()
	p.visible("dialog[open] h2", title)
	p.keys(kb.Tab, kb.Enter)
}
