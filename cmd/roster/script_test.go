package main

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"roster": main, "listener": anyListener})
}

// TestScripts runs the files in testdata: the commands as somebody at a
// terminal gives them, and a few of our own:
//
//	mistake COMMAND  runs what must end with 2
//	trouble COMMAND  runs what must end with 1
//	serve [VAR=VALUE] FLAGS
//	                 starts a server in the background, on free ports unless told otherwise
//	ready PATTERN    checks the line with which it said that it is ready
//	put ID           registers an instance of web with it
//	term             sends it SIGTERM and wants 0 (stop is the library's, and ends the script)
//	log PATTERN      checks what it had logged by then
//	port NAME        sets a variable to a port that is free
//	certificate NAME writes NAME.pem and NAME.key: of 127.0.0.1, of the client NAME, and of who has signed it
//	signal NAME      sends a signal to what was started in the background last
//	await PATTERN COMMAND
//	                 runs a command again and again until its output matches
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(e *testscript.Env) error {
			e.Values[serverKey{}] = &background{}
			// Under the race detector each command would take a second to end.
			e.Setenv("GORACE", "atexit_sleep_ms=0")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"mistake": func(ts *testscript.TestScript, _ bool, args []string) { ends(ts, exitUsage, args) },
			"trouble": func(ts *testscript.TestScript, _ bool, args []string) { ends(ts, exitFailure, args) },
			"serve":   serveScript,
			"ready":   readyScript,
			"put":     putScript,
			"term":    stopScript,
			"log":     logScript,
			"port":    portScript,
			"await":   awaitScript,
			"signal":  signalScript,

			"certificate": certificateScript,
		},
	})
}

// ends runs a command that must end with the status.
func ends(ts *testscript.TestScript, status int, args []string) {
	err := ts.Exec(args[0], args[1:]...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != status {
		ts.Fatalf("it ended with %v, want status %d", err, status)
	}
}

// background is the server in the background.
type background struct {
	cmd    *exec.Cmd
	line   string
	stderr bytes.Buffer
}

type serverKey struct{}

func current(ts *testscript.TestScript) *background { return ts.Value(serverKey{}).(*background) }

func serveScript(ts *testscript.TestScript, _ bool, args []string) {
	s := current(ts)
	*s = background{}
	env := os.Environ()
	for len(args) > 0 && strings.HasPrefix(args[0], "ROSTER_") {
		env, args = append(env, args[0]), args[1:]
	}
	all := strings.Join(args, " ")
	for _, flag := range []string{"--dns", "--http"} {
		if !strings.Contains(all, "--config") && !strings.Contains(all, flag) {
			args = append(args, flag, "127.0.0.1:0")
		}
	}
	path, err := exec.LookPath("roster")
	ts.Check(err)
	s.cmd = exec.Command(path, append([]string{"serve"}, args...)...)
	s.cmd.Dir = ts.Getenv("WORK")
	s.cmd.Env = env
	s.cmd.Stderr = &s.stderr
	stdout, err := s.cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(s.cmd.Start())
	ts.Defer(func() { _ = s.cmd.Process.Kill() })
	s.line, err = bufio.NewReader(stdout).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		ts.Fatalf("read the ready line: %v", err)
	}
	s.line = strings.TrimSpace(s.line)
	if m := regexp.MustCompile(`DNS (\S+?),? .*HTTP API on https?://([^,]+),`).FindStringSubmatch(s.line); m != nil {
		ts.Setenv("DNS", m[1])
		ts.Setenv("HTTP", m[2])
		ts.Setenv("ROSTER_DNS_SERVER", m[1])
		ts.Setenv("ROSTER_SERVER", m[2])
	}
}

func readyScript(ts *testscript.TestScript, _ bool, args []string) {
	if s := current(ts); !regexp.MustCompile(args[0]).MatchString(s.line) {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
		ts.Fatalf("it said %q, want a match of %s\n%s", s.line, args[0], s.stderr.String())
	}
}

func putScript(ts *testscript.TestScript, _ bool, args []string) {
	url := "http://" + ts.Getenv("HTTP") + "/v1/services/web/instances/" + args[0]
	req, err := http.NewRequest(http.MethodPut, url, strings.NewReader(`{"port":80,"ttl":3600}`))
	ts.Check(err)
	resp, err := http.DefaultClient.Do(req)
	ts.Check(err)
	resp.Body.Close()
	if resp.StatusCode >= 300 {
		ts.Fatalf("put %s: %s", args[0], resp.Status)
	}
}

func stopScript(ts *testscript.TestScript, _ bool, _ []string) {
	s := current(ts)
	ts.Check(s.cmd.Process.Signal(syscall.SIGTERM))
	late := time.AfterFunc(10*time.Second, func() { _ = s.cmd.Process.Kill() })
	err := s.cmd.Wait()
	if !late.Stop() {
		ts.Fatalf("it was not gone 10 s after SIGTERM")
	}
	if err != nil {
		ts.Fatalf("it ended with %v\n%s", err, s.stderr.String())
	}
}

func logScript(ts *testscript.TestScript, _ bool, args []string) {
	if s := current(ts); !regexp.MustCompile(args[0]).Match(s.stderr.Bytes()) {
		ts.Fatalf("it logged %q, want a match of %s", s.stderr.String(), args[0])
	}
}

func portScript(ts *testscript.TestScript, _ bool, args []string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	ts.Check(err)
	ts.Setenv(args[0], port)
}

func certificateScript(ts *testscript.TestScript, _ bool, args []string) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		DNSNames: args, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	cert, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	ts.Check(err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	ts.Check(err)
	for name, b := range map[string]*pem.Block{".pem": {Type: "CERTIFICATE", Bytes: cert}, ".key": {Type: "PRIVATE KEY", Bytes: private}} {
		ts.Check(os.WriteFile(ts.MkAbs(args[0]+name), pem.EncodeToMemory(b), 0o600))
	}
}

func awaitScript(ts *testscript.TestScript, _ bool, args []string) {
	want := regexp.MustCompile("(?m)" + args[0])
	path, err := exec.LookPath(args[1])
	ts.Check(err)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	late := time.After(20 * time.Second)
	for {
		cmd := exec.Command(path, args[2:]...)
		cmd.Dir = ts.Getenv("WORK")
		cmd.Env = append(os.Environ(), "ROSTER_SERVER="+ts.Getenv("ROSTER_SERVER"))
		out, _ := cmd.CombinedOutput() // what it failed with is in there
		if want.Match(out) {
			return
		}
		select {
		case <-tick.C:
		case <-late:
			ts.Fatalf("%v: never a match of %s in\n%s", args[1:], args[0], out)
		}
	}
}

func signalScript(ts *testscript.TestScript, _ bool, args []string) {
	s, known := map[string]os.Signal{
		"HUP": syscall.SIGHUP, "INT": os.Interrupt, "TERM": syscall.SIGTERM, "USR1": syscall.SIGUSR1, "USR2": syscall.SIGUSR2,
	}[args[0]]
	running := ts.BackgroundCmds()
	if !known || len(running) == 0 {
		ts.Fatalf("signal %v: no such signal, or nothing in the background", args)
	}
	ts.Check(running[len(running)-1].Process.Signal(s))
}

// anyListener is the program "listener", for roster run: it listens on the port that it is
// given, writes the weight that it is given, and tells of signals. It ends with
// 0 after SIGTERM or SIGINT, and with 7 after SIGUSR2.
func anyListener() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, os.Interrupt, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2)
	fmt.Println("pid", os.Getpid()) // first, so that whoever finds it registered finds this, too
	if _, err := net.Listen("tcp", "127.0.0.1:"+os.Args[1]); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	if len(os.Args) > 2 {
		if err := os.WriteFile(os.Getenv("ROSTER_WEIGHT_FILE"), []byte(os.Args[2]+"\n"), 0o600); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	for s := range signals {
		fmt.Println("got", s)
		switch s {
		case syscall.SIGTERM, os.Interrupt:
			os.Exit(0)
		case syscall.SIGUSR2:
			os.Exit(7)
		}
	}
}
