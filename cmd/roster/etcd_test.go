package main

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/sirupsen/logrus/hooks/test"

	"github.com/rosterdns/roster/store"
)

func TestParseEtcd(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		spec    string
		members []string
		prefix  string
		wrong   string // what the error has to name
	}{
		{spec: "etcd://10.0.0.1:2379", members: []string{"10.0.0.1:2379"}, prefix: "/roster"},
		{spec: "etcd://e1/", members: []string{"e1:2379"}, prefix: "/roster"},
		{spec: "etcd://e1.example.,e2_x:4001/prod/eu-1/", members: []string{"e1.example.:2379", "e2_x:4001"}, prefix: "/prod/eu-1"},
		{spec: "etcd://[::1]:2379,[fd00::2]/a.b_c", members: []string{"[::1]:2379", "[fd00::2]:2379"}, prefix: "/a.b_c"},

		{spec: "etcd:e1/roster", wrong: "write etcd://HOST:2379"},
		{spec: "etcd:", wrong: "write etcd://HOST:2379"},
		{spec: "etcd://", wrong: "a host is missing"},
		{spec: "etcd:///roster", wrong: "a host is missing"},
		{spec: "etcd://e1,,e2/roster", wrong: "a host is missing"},
		{spec: "etcd://e1,/roster", wrong: "a host is missing"},
		{spec: "etcd://:2379/roster", wrong: `the host "" of member ":2379"`},
		{spec: "etcd://e1:/roster", wrong: `the port "" of member "e1:"`},
		{spec: "etcd://e1:http/roster", wrong: `the port "http"`},
		{spec: "etcd://e1:0/roster", wrong: `the port "0"`},
		{spec: "etcd://e1:65536/roster", wrong: `the port "65536"`},
		{spec: "etcd://e1:+1/roster", wrong: `the port "+1"`},
		{spec: "etcd://e1:1:2/roster", wrong: `"e1:1:2" is no HOST:PORT`},
		{spec: "etcd://fd00::2/roster", wrong: "write [fd00::2]:2379"},
		{spec: "etcd://[fd00::2/roster", wrong: "is no HOST:PORT"},
		{spec: "etcd://[e1]:2379/roster", wrong: `the host "e1"`},
		{spec: "etcd://[10.0.0.1]:2379/roster", wrong: `the host "10.0.0.1"`},
		{spec: "etcd://e 1:2379/roster", wrong: `the host "e 1"`},
		{spec: "etcd://-e1:2379/roster", wrong: `the host "-e1"`},
		{spec: "etcd://http://e1:2379/roster", wrong: `the port ""`},
		{spec: "etcd://e1,e2,e1:2379/roster", wrong: "e1:2379 is in it twice"},
		{spec: "etcd://e1//roster", wrong: `the prefix "//roster"`},
		{spec: "etcd://e1/roster//", wrong: `the prefix "/roster/"`},
		{spec: "etcd://e1/ros ter", wrong: `the prefix "/ros ter"`},
		{spec: "etcd://e1/roster?ssl=on", wrong: `the prefix "/roster?ssl=on"`},
		{spec: "etcd://e1/roster\n", wrong: `the prefix "/roster\n"`},
		{spec: "etcd://e1/rüster", wrong: `the prefix "/rüster"`},
		{spec: "etcd://root:hunter2@e1/roster", wrong: "etcd://...@e1/roster: it names a user"},
		{spec: "etcd://root:hunter2/x@y@e1/roster", wrong: "--etcd-user NAME and --etcd-password-file FILE"},
		{spec: "etcd:root:hunter2@e1", wrong: "--etcd-password-file FILE"},
	} {
		members, prefix, err := parseEtcd(c.spec)
		if c.wrong != "" {
			if err == nil || !strings.Contains(err.Error(), c.wrong) || !strings.HasPrefix(err.Error(), "--store etcd:") {
				t.Errorf("%q: %v, want an error that says %s", c.spec, err, c.wrong)
			} else if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%q: the error shows the password: %v", c.spec, err)
			}
			continue
		}
		if err != nil || !slices.Equal(members, c.members) || prefix != c.prefix {
			t.Errorf("%q is %q, %q, %v; want %q, %q", c.spec, members, prefix, err, c.members, c.prefix)
		}
	}
}

func TestReadPassword(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"hunter2": "hunter2", "hunter2\n": "hunter2", "hunter 2 \r\n": "hunter 2 ", "": "", "\n": "", "hunter2\nmore\n": "",
	} {
		path := filepath.Join(t.TempDir(), "password")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := readPassword(path)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("of %q it read %q, %v; want %q", text, got, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("of %q: the error shows the password: %v", text, err)
		}
	}
	if _, err := readPassword(filepath.Join(t.TempDir(), "missing")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("of no file: %v", err)
	}
}

// The log says what has become of the instances, and what those that are gone do.
func TestLogReread(t *testing.T) {
	for by, says := range map[store.Difference]string{
		{Registered: 1, Changed: 2}: "etcd (e1:2379) was read again, watchers begin anew: 1 instances registered, 2 changed, 0 gone",
		{}:                          "etcd (e1:2379) was read again, watchers begin anew: no instance has changed",
		{Gone: 3}:                   "0 instances registered, 0 changed, 3 gone; those that are gone register again when their next heartbeat gets 404",
	} {
		log, hook := test.NewNullLogger()
		logReread(log, []string{"e1:2379"}, errors.New("it was emptied"), by)
		e := hook.LastEntry()
		level := logrus.WarnLevel
		if by == (store.Difference{}) {
			level = logrus.InfoLevel // nobody has to do anything
		}
		if e == nil || e.Level != level || !strings.Contains(e.Message, says) || (by.Gone == 0) == strings.Contains(e.Message, "404") {
			t.Errorf("%+v: got %v, want %s", by, e, says)
		}
	}
}

// The log says what DNS does while the server is cut off.
func TestLogCutOff(t *testing.T) {
	for staleFor, says := range map[time.Duration]string{
		0:               "DNS answers are SERVFAIL",
		5 * time.Minute: "marked stale, after 5m0s they are SERVFAIL",
	} {
		log, hook := test.NewNullLogger()
		logCutOff(log, []string{"e1:2379"}, staleFor, errors.New("no leader"))
		if e := hook.LastEntry(); e == nil || !strings.Contains(e.Message, says) {
			t.Errorf("%v: got %v, want %s", staleFor, e, says)
		}
	}
}
