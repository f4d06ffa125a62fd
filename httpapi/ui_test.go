package httpapi_test

import (
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"

	"github.com/rosterdns/roster/httpapi"
	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/storetest"
)

func newPage(t *testing.T, cfg httpapi.Config) http.Handler {
	t.Helper()
	r, done := storetest.Open(t, memory, store.Config{})
	t.Cleanup(done)
	return httpapi.NewOfflineWith(r, cfg).Handler()
}

func get(h http.Handler, method, path string, header ...string) *httptest.ResponseRecorder {
	req := httptest.NewRequest(method, path, nil)
	for k := 0; k+1 < len(header); k += 2 {
		req.Header.Set(header[k], header[k+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, req)
	return w
}

// Every file of the page is served, with its type, its tag and a policy that
// lets it load what is the page's own and nothing else.
func TestPageFiles(t *testing.T) {
	t.Parallel()
	h := newPage(t, httpapi.Config{UI: true, DNSAddress: "127.0.0.1:8053"})
	types := map[string]string{"html": "text/html; charset=utf-8", "css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}
	files, err := fs.ReadDir(os.DirFS("ui"), ".")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 10 {
		t.Errorf("only %d files", len(files))
	}
	for _, f := range files {
		path := "/ui/" + strings.Replace(f.Name(), "index.html", "", 1)
		content, err := os.ReadFile("ui/" + f.Name())
		if err != nil {
			t.Fatal(err)
		}
		w := get(h, http.MethodGet, path)
		want := strings.Replace(string(content), "{{dns}}", "127.0.0.1:8053", 1)
		if w.Code != http.StatusOK || w.Body.String() != want {
			t.Errorf("%s: %d, %d octets, want %d", path, w.Code, w.Body.Len(), len(want))
		}
		_, ext, _ := strings.Cut(f.Name(), ".")
		for name, want := range map[string]string{
			"Content-Type":                 types[ext],
			"Cache-Control":                "no-cache",
			"X-Content-Type-Options":       "nosniff",
			"Referrer-Policy":              "no-referrer",
			"Cross-Origin-Opener-Policy":   "same-origin",
			"Cross-Origin-Resource-Policy": "same-origin",
			"Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; " +
				"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
		} {
			if got := w.Header().Get(name); got != want {
				t.Errorf("%s: %s is %q, want %q", path, name, got, want)
			}
		}
		tag := w.Header().Get("ETag")
		if len(tag) < 10 || strings.HasPrefix(tag, "W/") {
			t.Errorf("%s: ETag %s", path, tag)
		}
		if w := get(h, http.MethodGet, path, "If-None-Match", tag); w.Code != http.StatusNotModified || w.Body.Len() != 0 || w.Header().Get("ETag") != tag {
			t.Errorf("%s again: %d, %d octets", path, w.Code, w.Body.Len())
		}
		if w := get(h, http.MethodHead, path); w.Code != http.StatusOK || w.Body.Len() != 0 || w.Header().Get("ETag") != tag {
			t.Errorf("HEAD %s: %d, %d octets", path, w.Code, w.Body.Len())
		}
	}
	if a, b := get(h, "GET", "/ui/app.js").Header().Get("ETag"), get(h, "GET", "/ui/list.js").Header().Get("ETag"); a == b {
		t.Error("two files have one tag")
	}
}

func TestPageElsewhere(t *testing.T) {
	t.Parallel()
	on, off := newPage(t, httpapi.Config{UI: true}), newPage(t, httpapi.Config{})
	for _, c := range []struct {
		h            http.Handler
		method, path string
		status       int
	}{
		{on, "GET", "/ui/none.js", 404},
		{on, "GET", "/ui/index.html", 404}, // one address for the page
		{on, "GET", "/ui/..%2fui.go", 404},
		{on, "GET", "/ui/%2e%2e%2fserver.go", 404},
		{on, "GET", "/ui/a/b", 404},
		{on, "GET", "/ui/%zz", 404},
		{on, "POST", "/ui/", 405},
		{on, "DELETE", "/ui/app.js", 405},
		{on, "GET", "/ui", 307},
		{off, "GET", "/ui/", 404},
		{off, "GET", "/ui", 404},
		{off, "GET", "/ui/app.js", 404},
	} {
		if c.path == "/ui/%zz" {
			continue // net/http lets no such request through
		}
		w := get(c.h, c.method, c.path)
		if w.Code != c.status || c.status >= 400 && w.Header().Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s %s: %d %s, want %d", c.method, c.path, w.Code, w.Header(), c.status)
		}
	}
	if got := get(on, "GET", "/ui").Header().Get("Location"); got != "ui/" {
		t.Errorf("/ui leads to %q", got)
	}
}

// The page is for everybody, and brings nothing with it that is not: with
// rights, and with none for who is not known, it is served, and the API is not.
func TestPageNeedsNoToken(t *testing.T) {
	t.Parallel()
	rights, err := httpapi.NewRights(httpapi.RightsConfig{})
	if err != nil {
		t.Fatal(err)
	}
	log := logrus.New()
	h := newPage(t, httpapi.Config{UI: true, Rights: func() *httpapi.Rights { return rights }, Log: log})
	for path, status := range map[string]int{"/ui": 307, "/ui/": 200, "/ui/app.js": 200, "/ui/none": 404, "/v1/services": 401, "/v1/events": 401} {
		if w := get(h, "GET", path); w.Code != status {
			t.Errorf("%s: %d, want %d", path, w.Code, status)
		}
	}
}

// What is put into the page is text.
func TestPageAddress(t *testing.T) {
	t.Parallel()
	h := newPage(t, httpapi.Config{UI: true, DNSAddress: `"><script>`})
	if body := get(h, "GET", "/ui/").Body.String(); !strings.Contains(body, `content="&#34;&gt;&lt;script&gt;"`) {
		t.Error("the address is not escaped")
	}
}

// The page has no inline script or style, which the policy would forbid, and
// nothing from elsewhere, in any of its files; and it is small.
func TestPageIsSelfContained(t *testing.T) {
	t.Parallel()
	files, err := fs.Glob(os.DirFS("ui"), "*")
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := regexp.MustCompile(`(?i)\b(?:https?:)?//[a-z0-9-]+\.[a-z]`)
	inline := regexp.MustCompile(`(?i)<style|\son[a-z]+=|\sstyle=|<script(?: type="module")?>|innerHTML|outerHTML|insertAdjacentHTML|\beval\(|new Function`)
	total := 0
	for _, name := range files {
		b, err := os.ReadFile("ui/" + name)
		if err != nil {
			t.Fatal(err)
		}
		total += len(b)
		text := strings.ReplaceAll(string(b), "http://www.w3.org/2000/svg", "")
		if m := elsewhere.FindString(text); m != "" {
			t.Errorf("%s: %s is elsewhere", name, m)
		}
		if m := inline.FindString(text); m != "" {
			t.Errorf("%s: %q", name, m)
		}
		if n := strings.Count(text, "\n"); strings.HasSuffix(name, ".js") && n > 300 {
			t.Errorf("%s has %d lines", name, n)
		}
	}
	if total > 128<<10 {
		t.Errorf("the page has %d octets", total)
	}
}
