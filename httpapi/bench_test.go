package httpapi_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/mux"

	"github.com/rosterdns/roster/httpapi"
	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/storetest"
)

// benchServer, in the environment, makes this program a server for the
// benchmarks: what a request costs the server is what another process spends,
// without the client.
const benchServer = "ROSTER_BENCH_SERVER"

func TestMain(m *testing.M) {
	kind := os.Getenv(benchServer)
	if kind == "" {
		os.Exit(m.Run())
	}
	if err := serveBench(kind); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// serveBench serves until SIGTERM, and prints the address. The kind is mux, a
// gorilla/mux handler that answers 200 and does nothing, or roster and how
// many instances are registered, ten to a service.
func serveBench(kind string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if kind == "mux" {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		r := mux.NewRouter()
		r.HandleFunc("/v1/services/{service}/instances/{id}/heartbeat", func(http.ResponseWriter, *http.Request) {}).Methods(http.MethodPut)
		fmt.Fprintln(os.Stdout, l.Addr())
		h := &http.Server{Handler: r}
		context.AfterFunc(ctx, func() { _ = h.Close() })
		if err := h.Serve(l); ctx.Err() == nil {
			return err
		}
		return nil
	}
	n, err := strconv.Atoi(strings.TrimPrefix(kind, "roster"))
	if err != nil {
		return err
	}
	r, err := store.Open(ctx, store.NewMemory(), store.Config{})
	if err != nil {
		return err
	}
	defer r.Close()
	for k := range n {
		i := storetest.Instance(benchService(k), strconv.Itoa(k%10))
		i.TTL = time.Hour
		if _, err := r.Register(ctx, i, false); err != nil {
			return err
		}
	}
	s, err := httpapi.New(httpapi.Config{Registry: r, Name: func(*store.Instance) string { return "" }})
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stdout, s.Addr())
	return s.Serve(ctx)
}

func benchService(k int) string { return "s" + strconv.Itoa(k/10) }

// child is a server in a process of its own.
type child struct {
	*exec.Cmd
	addr string
}

func startChild(b *testing.B, kind string) *child {
	b.Helper()
	c := &child{Cmd: exec.CommandContext(b.Context(), os.Args[0])}
	c.Env = append(os.Environ(), benchServer+"="+kind, "GOMAXPROCS=1")
	c.Stderr = os.Stderr
	out, err := c.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := c.Start(); err != nil {
		b.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	c.addr = strings.TrimSpace(line)
	return c
}

// spent returns the processor time that the server has used.
func (c *child) spent(b *testing.B) time.Duration {
	b.Helper()
	dir := fmt.Sprintf("/proc/%d/task", c.Process.Pid)
	tasks, err := os.ReadDir(dir)
	if err != nil {
		b.Skipf("no such accounting here: %v", err)
	}
	var sum int64
	for _, t := range tasks {
		stat, err := os.ReadFile(dir + "/" + t.Name() + "/schedstat")
		if err != nil {
			continue // it has ended
		}
		ns, err := strconv.ParseInt(strings.Fields(string(stat))[0], 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		sum += ns
	}
	return time.Duration(sum)
}

func (c *child) stop(b *testing.B) {
	b.Helper()
	_ = c.Process.Signal(syscall.SIGTERM)
	if err := c.Wait(); err != nil {
		b.Errorf("the server: %v", err)
	}
}

// exchange sends a request on a connection and reads the response to its end.
func exchange(c net.Conn, r *bufio.Reader, request []byte) error {
	if _, err := c.Write(request); err != nil {
		return err
	}
	length := -1
	for first := true; ; first = false {
		line, err := r.ReadSlice('\n')
		switch {
		case err != nil:
			return err
		case first && !bytes.HasPrefix(line, []byte("HTTP/1.1 200 ")):
			return fmt.Errorf("answered %q", line)
		case len(line) == 2:
			_, err = r.Discard(max(length, 0))
			return err
		}
		if v, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(v))); err != nil {
				return err
			}
		}
	}
}

// wire is a client's connection.
type wire struct {
	net.Conn
	in *bufio.Reader
}

func dial(b *testing.B, addr string, n int) []wire {
	b.Helper()
	var list []wire
	for range n {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { c.Close() })
		list = append(list, wire{c, bufio.NewReaderSize(c, 64<<10)})
	}
	return list
}

// load sends n requests over the connections.
func load(b *testing.B, connections []wire, n int, request func(k int) []byte) {
	b.Helper()
	var next atomic.Int64
	var g sync.WaitGroup
	for _, c := range connections {
		g.Go(func() {
			for k := int(next.Add(1)); k <= n; k = int(next.Add(1)) {
				if err := exchange(c, c.in, request(k)); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	g.Wait()
}

// Heartbeats one by one over 64 connections, in turns with a handler that does
// nothing: the ratio of what they cost the server is to be at most 1.3.
func BenchmarkSingleHeartbeat(b *testing.B) {
	const turn = 2000
	kinds := []string{"mux", "roster10000"}
	var spent [2]time.Duration
	var children [2]*child
	var requests [2][][]byte
	var wires [2][]wire
	for k, kind := range kinds {
		c := startChild(b, kind)
		defer c.stop(b)
		children[k], wires[k] = c, dial(b, c.addr, 64)
		for i := range 1000 {
			requests[k] = append(requests[k], fmt.Appendf(nil,
				"PUT /v1/services/%s/instances/%d/heartbeat HTTP/1.1\r\nHost: %s\r\nUser-Agent: bench\r\nContent-Length: 0\r\n\r\n", benchService(i*10), i%10, c.addr))
		}
	}
	run := func(k, n int) {
		load(b, wires[k], n, func(i int) []byte { return requests[k][i%1000] })
	}
	run(0, turn) // to warm up
	run(1, turn)
	b.ResetTimer()
	for done := 0; done < b.N; done += turn {
		for k, c := range children {
			before := c.spent(b)
			run(k, min(turn, b.N-done))
			spent[k] += c.spent(b) - before
		}
	}
	b.StopTimer()
	for k, kind := range kinds {
		b.ReportMetric(float64(spent[k])/1e3/float64(b.N), kind+"-µs/op")
	}
	b.ReportMetric(float64(spent[1])/float64(spent[0]), "ratio")
}

// Heartbeats ten thousand at a time: server-ns/renewal is to be at most 1000.
func BenchmarkBatchHeartbeat(b *testing.B) {
	for _, instances := range []int{10_000, 100_000, 1_000_000} {
		b.Run(fmt.Sprintf("of%d", instances), func(b *testing.B) {
			c := startChild(b, fmt.Sprintf("roster%d", instances))
			defer c.stop(b)
			const size = 10_000
			var requests [][]byte
			for first := 0; first < instances; first += size {
				var items []string
				for k := first; k < first+size; k++ {
					items = append(items, fmt.Sprintf(`{"service":%q,"id":"%d"}`, benchService(k), k%10))
				}
				body := `{"instances":[` + strings.Join(items, ",") + `]}`
				requests = append(requests, fmt.Appendf(nil, "POST /v1/heartbeats HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", c.addr, len(body), body))
			}
			wires := dial(b, c.addr, 1)
			load(b, wires, 2*len(requests), func(k int) []byte { return requests[k%len(requests)] })
			before := c.spent(b)
			b.ResetTimer()
			load(b, wires, b.N, func(k int) []byte { return requests[k%len(requests)] })
			b.StopTimer()
			b.ReportMetric(float64(c.spent(b)-before)/float64(b.N)/size, "server-ns/renewal")
			b.ReportMetric(float64(b.Elapsed())/float64(b.N)/size, "ns/renewal")
		})
	}
}
