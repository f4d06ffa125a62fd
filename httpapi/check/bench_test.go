package check_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/rosterdns/roster/httpapi/check"
	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/storetest"
)

// serversVariable makes the test binary be the servers that are probed: in a
// process of their own, so that their work is not counted as ours.
const serversVariable = "ROSTER_CHECK_SERVERS"

func TestMain(m *testing.M) {
	if os.Getenv(serversVariable) != "" {
		if err := servers(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// servers serves until stdin ends. One line says where: TCP, HTTP, gRPC.
func servers() error {
	var listeners []net.Listener
	for range 3 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		listeners = append(listeners, l)
	}
	go func() {
		for {
			if c, err := listeners[0].Accept(); err == nil {
				c.Close()
			}
		}
	}()
	go func() {
		_ = http.Serve(listeners[1], http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") }))
	}()
	s := grpc.NewServer()
	healthpb.RegisterHealthServer(s, health.NewServer())
	go func() { _ = s.Serve(listeners[2]) }()
	fmt.Fprintln(os.Stdout, listeners[0].Addr(), listeners[1].Addr(), listeners[2].Addr())
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// startServers returns an instance with a check of each type, of servers in
// another process.
func startServers(b *testing.B) map[store.CheckType]*store.Instance {
	b.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), serversVariable+"=1")
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		stdin.Close()
		if err := cmd.Wait(); err != nil {
			b.Errorf("the servers: %v", err)
		}
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	all := map[store.CheckType]*store.Instance{}
	for k, text := range strings.Fields(line) {
		kind := []store.CheckType{store.CheckTCP, store.CheckHTTP, store.CheckGRPC}[k]
		i := storetest.Instance("web", kind.String())
		at := netip.MustParseAddrPort(text)
		i.Addresses, i.Port, i.TTL, i.Check = []netip.Addr{at.Addr()}, at.Port(), 0, storetest.Check(kind)
		i.Check.Peer = at.Addr()
		all[kind] = i
	}
	return all
}

// cpu returns the time that this process has had of all processors, its own
// and the kernel's on its behalf.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkProbe is what one probe costs the prober, and which share of a core
// 5,000 checks every 10 s would take at that.
func BenchmarkProbe(b *testing.B) {
	for kind, i := range startServers(b) {
		b.Run(kind.String(), func(b *testing.B) {
			begin := cpu(b)
			for b.Loop() {
				ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
				if err := check.Probe(ctx, i); err != nil {
					b.Fatal(err)
				}
				cancel()
			}
			each := (cpu(b) - begin) / time.Duration(b.N)
			b.ReportMetric(float64(each.Nanoseconds())/1e3, "cpu-µs/probe")
			b.ReportMetric(100*each.Seconds()*500, "%core@500/s")
		})
	}
}

// BenchmarkChecker runs 5,000 checks every 10 s, a third of each type, for 20 s,
// and reports the share of a core that the process has used meanwhile.
func BenchmarkChecker(b *testing.B) {
	const n, length = 5000, 20 * time.Second
	kinds := startServers(b)
	r, err := store.Open(b.Context(), store.NewMemory(), store.Config{})
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	for k := range n {
		i := *kinds[store.CheckType(k%3)]
		i.Service, i.ID = fmt.Sprintf("s%d", k%100), fmt.Sprintf("i%d", k)
		if _, err := r.Register(b.Context(), &i, false); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		ctx, cancel := context.WithTimeout(b.Context(), length)
		begin := cpu(b)
		if err := check.New(check.Config{Registry: r, Log: quiet()}).Run(ctx); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(100*(cpu(b)-begin).Seconds()/length.Seconds(), "%core")
		cancel()
	}
	up := 0
	for v := range r.Services {
		for m := range v.Members(r.Now()) {
			if m.Status == store.Up {
				up++
			}
		}
	}
	if up != n {
		b.Errorf("%d of %d are up", up, n)
	}
}
