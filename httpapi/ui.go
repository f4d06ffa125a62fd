package httpapi

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"html"
	"io/fs"
	"net/http"
	"path"
	"time"
)

// This file serves the page for people at /ui/. The page is static and the same
// for everybody; what it shows it asks of the API, as whoever looks at it. So
// it needs no token, and the API's rights are its rights.

//go:embed ui
var uiFiles embed.FS

// uiHeaders go with all that is served below /ui/. The page runs and loads its
// own files only, talks to its own server only, and is in nobody's frame; no
// text is ever taken for markup.
var uiHeaders = map[string]string{
	"Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; " +
		"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
	"Cross-Origin-Opener-Policy":   "same-origin",
	"Cross-Origin-Resource-Policy": "same-origin",
	"Referrer-Policy":              "no-referrer",
	"X-Content-Type-Options":       "nosniff",
	"Cache-Control":                "no-cache", // kept, and asked for again each time: a new server has a new page
}

// uiFile is one file of the page.
type uiFile struct {
	ctype, etag string
	content     []byte
}

// readUI returns the page's files by name; "" is the page itself, which is told
// where the server answers DNS.
func readUI(dns string) map[string]uiFile {
	files := map[string]uiFile{}
	entries, err := fs.ReadDir(uiFiles, "ui")
	if err != nil {
		panic("httpapi: internal error: read the embedded page: " + err.Error())
	}
	for _, e := range entries {
		b, err := uiFiles.ReadFile(path.Join("ui", e.Name()))
		if err != nil {
			panic("httpapi: internal error: read the embedded page: " + err.Error())
		}
		f := uiFile{ctype: contentType(e.Name())}
		name := e.Name()
		if name == "index.html" {
			name = ""
			b = bytes.Replace(b, []byte("{{dns}}"), []byte(html.EscapeString(dns)), 1)
		}
		sum := sha256.Sum256(b)
		f.content, f.etag = b, `"`+hex.EncodeToString(sum[:12])+`"`
		files[name] = f
	}
	return files
}

// contentType does not ask the system, whose tables differ from host to host,
// where the page is broken by a wrong one.
func contentType(name string) string {
	switch ext := path.Ext(name); ext {
	case ".html":
		return "text/html; charset=utf-8"
	case ".css":
		return "text/css; charset=utf-8"
	case ".js":
		return "text/javascript; charset=utf-8"
	case ".svg":
		return "image/svg+xml"
	default:
		panic("httpapi: internal error: the page has a file of a type that is not known, " + name)
	}
}

// ui is GET /ui/ and GET /ui/{file}.
func (s *Server) ui(w http.ResponseWriter, r *http.Request) error {
	h := w.Header()
	for name, value := range uiHeaders {
		h.Set(name, value)
	}
	name, err := pathVar(r, "file") // "" for /ui/
	if err != nil {
		return err
	}
	f, ok := s.uiFiles[name]
	if !ok {
		return problemf(http.StatusNotFound, "there is no %s here; the page is /ui/", r.URL.EscapedPath())
	}
	h.Set("Content-Type", f.ctype)
	h.Set("ETag", f.etag)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(f.content))
	return nil
}

// uiFolder sends who has forgotten the slash on to the page. The way there is
// a relative one, so that it holds behind a proxy with a path of its own.
func (s *Server) uiFolder(w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Location", "ui/")
	w.WriteHeader(http.StatusTemporaryRedirect)
	return nil
}
