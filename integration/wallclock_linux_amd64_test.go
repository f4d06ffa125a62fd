package integration

import (
	"bufio"
	le "encoding/binary"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"
)

// The wall clock is stepped by a day, forward and back, and no lease is the
// longer or the shorter for it.
//
// faketime cannot do that: it replaces functions of libc, and a Go program
// takes the time from the kernel without them. So the server is run under
// ptrace, without the kernel's vDSO and with a filter that stops it in each
// system call for the wall clock, which the test answers in the kernel's place.
func TestWallClockSteps(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run", "^TestStepped$")
	cmd.Env = append(os.Environ(), steppedEnv+"="+binary)
	cmd.Dir = t.TempDir()
	steps, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	r := startReady(t, cmd)
	r.register(t, "web", "lives", `{"address":"10.0.0.1","ttl":2}`)
	var stop atomic.Bool
	var g sync.WaitGroup
	defer g.Wait()
	defer stop.Store(true)
	g.Go(func() {
		for !stop.Load() {
			r.must(t, http.MethodPut, "/v1/services/web/instances/lives/heartbeat", "")
			<-time.After(600 * time.Millisecond)
		}
	})
	revision := r.register(t, "web", "other", `{"address":"10.0.0.3","permanent":true}`).Revision
	for k, step := range []time.Duration{24 * time.Hour, -24 * time.Hour, 0} {
		began := time.Now()
		dying := r.register(t, "web", "dies", `{"address":"10.0.0.2","ttl":2}`)
		if _, err := fmt.Fprintln(steps, int64(step/time.Second)); err != nil {
			t.Fatal(err)
		}
		// That it has been stepped, its replies say.
		until(t, 5*time.Second, "the wall clock's step", func() bool {
			off := time.Until(r.must(t, http.MethodPut, "/v1/services/web/instances/lives/heartbeat", "").Expires) - step
			return off > 0 && off < 3*time.Second
		})
		if dying.Revision != revision+1 {
			t.Errorf("step %d: the revision went from %d to %d", k, revision, dying.Revision)
		}
		revision = dying.Revision + 1 // the one it has when that is gone
		gone := time.Time{}
		for gone.IsZero() && time.Since(began) < 10*time.Second {
			addrs, _, err := addresses(r.dns, "web.service.")
			if err != nil || !slices.Contains(addrs, "10.0.0.1") || !slices.Contains(addrs, "10.0.0.3") {
				t.Fatalf("stepped by %v: %q, %v", step, addrs, err)
			}
			if !slices.Contains(addrs, "10.0.0.2") {
				gone = time.Now()
			}
		}
		late := gone.Sub(began) - 2*time.Second
		t.Logf("stepped by %v: gone %v after the lease's end", step, late)
		if gone.IsZero() || late < 0 || late > 500*time.Millisecond+r.extended(t) {
			t.Errorf("stepped by %v: gone %v after the lease's end", step, late)
		}
		until(t, time.Second, "its removal", func() bool { return len(r.listed(t)) == 2 })
	}
}

// TestStepped is no test: it is what TestWallClockSteps runs the server in.
func TestStepped(t *testing.T) {
	program := os.Getenv(steppedEnv)
	if program == "" {
		t.Skip("it is run by TestWallClockSteps")
	}
	var offset atomic.Int64
	go func() {
		lines := bufio.NewScanner(os.Stdin)
		for lines.Scan() {
			if n, err := strconv.ParseInt(lines.Text(), 10, 64); err == nil {
				offset.Store(n)
			}
		}
	}()
	runtime.LockOSThread() // ptrace and the filter are a thread's
	if err := stopAtWallClock(); err != nil {
		t.Fatalf("filter: %v", err)
	}
	pid, err := syscall.ForkExec(program, []string{program, "serve", "--dns", "127.0.0.1:0", "--http", "127.0.0.1:0"}, &syscall.ProcAttr{
		Env: os.Environ(), Files: []uintptr{0, 1, 2}, Sys: &syscall.SysProcAttr{Ptrace: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	go func() {
		<-term
		_ = syscall.Kill(pid, syscall.SIGTERM)
	}()
	if err := trace(pid, &offset); err != nil && err != io.EOF { //nolint:errorlint // what trace returns
		t.Fatal(err)
	}
}

// stopAtWallClock has the children of this thread stop for their tracer in
// clock_gettime(CLOCK_REALTIME).
func stopAtWallClock() error {
	type instruction struct {
		code   uint16
		jt, jf uint8
		k      uint32
	}
	const load, equal, ret = 0x20, 0x15, 0x06
	filter := []instruction{
		{load, 0, 0, 0}, // the call's number
		{equal, 0, 3, syscall.SYS_CLOCK_GETTIME},
		{load, 0, 0, 16},        // its first argument
		{equal, 0, 1, 0},        // CLOCK_REALTIME
		{ret, 0, 0, 0x7ff00000}, // SECCOMP_RET_TRACE
		{ret, 0, 0, 0x7fff0000}, // SECCOMP_RET_ALLOW
	}
	program := struct {
		n      uint16
		filter *instruction
	}{uint16(len(filter)), &filter[0]}
	const noNewPrivs, seccomp, mode = 38, 22, 2
	if _, _, e := syscall.RawSyscall6(syscall.SYS_PRCTL, noNewPrivs, 1, 0, 0, 0, 0); e != 0 {
		return e
	}
	if _, _, e := syscall.RawSyscall6(syscall.SYS_PRCTL, seccomp, mode, uintptr(unsafe.Pointer(&program)), 0, 0, 0); e != 0 {
		return e
	}
	return nil
}

// trace runs a program that has just been started to its end, with a wall clock
// that is so many seconds off.
func trace(pid int, offset *atomic.Int64) error {
	const traceSeccomp, exitKill, all = 0x80, 0x100000, 0x40000000
	const eventSeccomp = 7
	var ws syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &ws, all, nil); err != nil {
		return fmt.Errorf("wait for exec: %w", err)
	}
	if err := hideVDSO(pid); err != nil {
		return err
	}
	if err := syscall.PtraceSetOptions(pid, syscall.PTRACE_O_TRACECLONE|traceSeccomp|exitKill); err != nil {
		return fmt.Errorf("options: %w", err)
	}
	known := map[int]bool{pid: true}
	for tid := pid; ; {
		pass := 0
		switch s := ws.StopSignal(); {
		case ws.Stopped() && s == syscall.SIGTRAP:
			if ws.TrapCause() == eventSeccomp {
				if err := answerTime(tid, offset.Load()); err != nil {
					return err
				}
			}
		case ws.Stopped() && (s != syscall.SIGSTOP || known[tid]): // a new thread begins with a stop of ours
			pass = int(s)
		}
		known[tid] = true
		if ws.Stopped() {
			if err := syscall.PtraceCont(tid, pass); err != nil && err != syscall.ESRCH {
				return fmt.Errorf("go on: %w", err)
			}
		}
		var err error
		if tid, err = syscall.Wait4(-1, &ws, all, nil); err != nil {
			return fmt.Errorf("wait: %w", err)
		}
		if tid == pid && !ws.Stopped() {
			return io.EOF
		}
	}
}

// hideVDSO takes the vDSO out of what the kernel tells a program at its start,
// so that it makes system calls for the time.
func hideVDSO(pid int) error {
	const ignore, vdso = 1, 33
	var regs syscall.PtraceRegs
	if err := syscall.PtraceGetRegs(pid, &regs); err != nil {
		return fmt.Errorf("registers: %w", err)
	}
	// From the stack's top: the number of arguments, those, 0, the environment,
	// 0, and pairs of type and value.
	word, zeros := make([]byte, 8), 0
	for at := uintptr(regs.Rsp) + 8; ; at += 8 {
		if _, err := syscall.PtracePeekData(pid, at, word); err != nil {
			return fmt.Errorf("read the stack: %w", err)
		}
		v := le.LittleEndian.Uint64(word)
		switch {
		case zeros < 2 && v == 0:
			zeros++
		case zeros < 2:
		case v == 0:
			return fmt.Errorf("no vDSO")
		case v == vdso:
			_, err := syscall.PtracePokeData(pid, at, []byte{ignore, 0, 0, 0, 0, 0, 0, 0})
			return err
		default:
			at += 8 // its value is skipped with the next step
		}
	}
}

// answerTime answers the call that the thread is about to make, and skips it.
func answerTime(tid int, offset int64) error {
	var regs syscall.PtraceRegs
	if err := syscall.PtraceGetRegs(tid, &regs); err != nil {
		return fmt.Errorf("registers: %w", err)
	}
	now := time.Now()
	timespec := le.LittleEndian.AppendUint64(nil, uint64(now.Unix()+offset))
	timespec = le.LittleEndian.AppendUint64(timespec, uint64(now.Nanosecond()))
	if _, err := syscall.PtracePokeData(tid, uintptr(regs.Rsi), timespec); err != nil {
		return fmt.Errorf("write the time: %w", err)
	}
	regs.Orig_rax, regs.Rax = ^uint64(0), 0
	return syscall.PtraceSetRegs(tid, &regs)
}
