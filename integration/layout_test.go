package integration

import (
	"encoding/json"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const module = "github.com/rosterdns/roster"

// pkg is what go list says of a package.
type pkg struct {
	ImportPath, Dir, Doc string
	Imports, GoFiles     []string
}

func packages(t *testing.T) map[string]pkg {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Dir,Doc,Imports,GoFiles", "../...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	all := map[string]pkg{}
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := dec.Decode(&p); err == io.EOF {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all[strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")] = p
	}
}

// allowed are the packages of ours that each may import; a package that is
// not here may not exist.
var allowed = map[string][]string{
	"store":               {},
	"store/bolt":          {"store"},
	"store/storetest":     {"store"},
	"store/etcd":          {"store"},
	"store/etcd/etcdtest": {"store/etcd"},
	"dnsserver":           {"store"},
	"httpapi":             {"store", "httpapi/check"},
	"httpapi/check":       {"store"},
	"httpapi/client":      {},
	"cmd/roster":          {"store", "store/bolt", "store/etcd", "dnsserver", "httpapi", "httpapi/check", "httpapi/client"},
	"integration":         {},
}

func TestDependencies(t *testing.T) {
	for name, p := range packages(t) {
		may, known := allowed[name]
		if !known {
			t.Errorf("package %s has no place in the layout; give it one here and in ARCHITECTURE.md", name)
		}
		for _, i := range p.Imports {
			ours, isOurs := strings.CutPrefix(i, module+"/")
			switch {
			case isOurs && !strings.Contains(" "+strings.Join(may, " ")+" ", " "+ours+" "):
				t.Errorf("%s imports %s: dependencies point from cmd to dnsserver and httpapi, and from both to store", name, ours)
			case name == "store" && strings.Contains(i, "."):
				t.Errorf("store imports %s: the domain uses the standard library only", i)
			case name == "httpapi/client" && strings.Contains(i, "."):
				t.Errorf("httpapi/client imports %s: whoever uses it is to get the standard library only", i)
			case name == "dnsserver" && i == "net/http":
				t.Error("dnsserver imports net/http: HTTP is httpapi's and cmd's business")
			case !strings.HasSuffix(name, "test") && i == "testing":
				t.Errorf("%s imports testing", name)
			}
		}
	}
}

// Every package says what it is.
func TestPackageComments(t *testing.T) {
	for name, p := range packages(t) {
		if name != "integration" && len(p.Doc) < 40 {
			t.Errorf("package %s has no comment that says what it is: %q", name, p.Doc)
		}
		for _, f := range p.GoFiles {
			if _, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, f), nil, parser.PackageClauseOnly); err != nil {
				t.Error(err)
			}
		}
	}
}

// ARCHITECTURE.md names every file of production code, and none that is not
// there, in under 200 lines.
func TestArchitectureNamesTheFiles(t *testing.T) {
	b, err := os.ReadFile("../ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(b), "\n"); n >= 200 {
		t.Errorf("ARCHITECTURE.md has %d lines", n)
	}
	named := map[string]bool{}
	for _, m := range regexp.MustCompile("`([a-z/_]*?)([a-z_]+\\.go)`").FindAllStringSubmatch(string(b), -1) {
		named[m[2]] = true
		if found, _ := filepath.Glob("../" + m[1] + m[2]); m[1] != "" && len(found) == 0 {
			t.Errorf("ARCHITECTURE.md names %s, which is not there", m[1]+m[2])
		}
	}
	for name, p := range packages(t) {
		for _, f := range p.GoFiles {
			if !named[f] && f != "store.go" && f != "memory.go" && f != "zone.go" {
				t.Errorf("ARCHITECTURE.md does not say where %s/%s belongs", name, f)
			}
		}
	}
}
