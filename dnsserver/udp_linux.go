package dnsserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// On Linux a loop owns a blocking socket and a thread. It reads and writes in
// batches, one system call for many packets. Each processor has a socket of its
// own (SO_REUSEPORT), and the kernel spreads the clients over them.
//
// Where nothing is there to read the loop sleeps in the read. To Go's scheduler
// that is a call like any other, and a dear one: each time its processor (a P)
// is taken away and has to be won back, and the monitor thread is woken. At some
// thousand queries a second that costs more than the answers. So a loop brings
// a P of its own, keeps it through short sleeps, and tells the scheduler only
// of long ones. The garbage collector gets its turn all the same: its signal
// ends a read that has a timeout, and the loop goes by where it yields.

const (
	batchSize   = 32
	sockaddrMax = unix.SizeofSockaddrInet6
	controlMax  = 64 // one IP_PKTINFO or IPV6_PKTINFO message
	// lastBatches bounds what is still read once the server is to end: more
	// than a socket's buffer holds, so that what had come is answered, and a
	// client that goes on asking does not keep the loop for ever.
	lastBatches = 512
	// shortSleep is how long a loop waits with its P: not longer than the
	// scheduler lets a goroutine run before it asks for a turn.
	shortSleep = 10 * time.Millisecond
	// bufferSize is a message and a bit, so that the beginnings of the buffers
	// do not all fall into the same lines of the cache.
	bufferSize = maxUDP + 3*64
)

// listenUDP binds a socket for each processor to the same address.
func listenUDP(network, address string) (sockets []net.PacketConn, err error) {
	lc := net.ListenConfig{Control: func(network, address string, c syscall.RawConn) error {
		local, err := netip.ParseAddrPort(address)
		wildcard := err != nil || local.Addr().IsUnspecified() // ":53" is no address
		ctl := c.Control(func(fd uintptr) { err = prepareSocket(int(fd), network, wildcard) })
		return errors.Join(ctl, err)
	}}
	for range runtime.NumCPU() {
		pc, err := lc.ListenPacket(context.Background(), network, address)
		if err != nil {
			for _, s := range sockets {
				err = errors.Join(err, s.Close())
			}
			return nil, err
		}
		sockets = append(sockets, pc)
	}
	return sockets, nil
}

func prepareSocket(fd int, network string, wildcard bool) error {
	// A packet's destination is noted as it comes in, so this is for before the
	// socket is bound. An answer from a wildcard address needs it; any other is
	// spared what it costs.
	if wildcard {
		if err := askDestinations(fd, network); err != nil {
			return err
		}
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
		return fmt.Errorf("SO_REUSEPORT: %w", err)
	}
	// Room for a burst while the loop answers the one before; where the system
	// allows less, less it is.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4<<20)
	return nil
}

// askDestinations has the kernel say where packets went to.
func askDestinations(fd int, network string) error {
	level, option := unix.IPPROTO_IP, unix.IP_PKTINFO
	if network != "udp4" { // and on a socket for both, mapped IPv4 addresses
		level, option = unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO
	}
	if err := unix.SetsockoptInt(fd, level, option, 1); err != nil {
		return fmt.Errorf("ask for the packets' destinations: %w", err)
	}
	return nil
}

// prepareInherited does to a socket that somebody else has bound what can be
// done to it.
func prepareInherited(conn *net.UDPConn) error {
	network := "udp6"
	local := conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr() //nolint:errcheck // what a UDP socket has
	if !local.IsUnspecified() {
		return nil
	}
	if local.Is4() {
		network = "udp4"
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	ctl := raw.Control(func(fd uintptr) { err = askDestinations(int(fd), network) })
	return errors.Join(ctl, err)
}

// udpLoop is one socket and its thread.
type udpLoop struct {
	server *Server
	fd     int
	event  int // readable once the server is to end
	fast   *fastPath
	done   atomic.Bool
	left   sync.WaitGroup // packets left to the ordinary path, which writes to fd

	in, out  [batchSize]message
	inBufs   [batchSize][bufferSize]byte
	outBufs  [batchSize][bufferSize]byte
	inVecs   [batchSize]unix.Iovec
	outVecs  [batchSize]unix.Iovec
	names    [batchSize][sockaddrMax]byte
	controls [batchSize][controlMax]byte
	wildcard bool
}

// message is the kernel's struct mmsghdr.
type message struct {
	hdr unix.Msghdr
	n   uint32
	_   [unsafe.Sizeof(uintptr(0)) - 4]byte
}

// niceness lets the rest of the server go before the loops where processors are
// short: in a flood heartbeats and expiry get theirs, and what DNS has to drop
// it drops in the kernel.
const niceness = 5

// threadName is what the threads of the loops are called.
var threadName = []byte("dns-udp\x00")

// serveUDP answers what comes to the socket until ctx is done, and then what
// has come by then.
func (s *Server) serveUDP(ctx context.Context, pc net.PacketConn, c *counts) error {
	conn := pc.(*net.UDPConn)                           //nolint:errcheck // listenUDP made it
	local := conn.LocalAddr().(*net.UDPAddr).AddrPort() //nolint:errcheck // what a UDP socket has
	var fd int
	// In one step, or there would be a moment in which it cannot be copied.
	unshare, err := s.shared.share(pc, func() (copied func() (*os.File, error), err error) {
		fd, err = ownSocket(conn)
		return func() (*os.File, error) {
			copied, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
			return os.NewFile(uintptr(copied), "dns"), err // it blocks, so Go's poller has nothing to do with it
		}, err
	})
	if err != nil {
		return fmt.Errorf("serve DNS over UDP: %w", err)
	}
	defer unix.Close(fd)
	defer unshare()
	event, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("serve DNS over UDP: eventfd: %w", err)
	}
	defer unix.Close(event)
	l := &udpLoop{server: s, fd: fd, event: event, fast: s.newFastPath(c)}
	l.wildcard = local.Addr().IsUnspecified()
	timeout := unix.NsecToTimeval(shortSleep.Nanoseconds())
	if err := unix.SetsockoptTimeval(l.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		return fmt.Errorf("serve DNS over UDP: SO_RCVTIMEO: %w", err)
	}
	l.prepare()
	addProc(1)
	defer addProc(-1)
	ended := make(chan error, 1)
	onOwnThread(func() {
		// For top -H and for benchmarks; without a name it works as well.
		_ = unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&threadName[0])), 0, 0, 0)
		_ = unix.Setpriority(unix.PRIO_PROCESS, 0, niceness) // of this thread alone
		ended <- l.run()
	})
	select {
	case err = <-ended:
	case <-ctx.Done():
		// The socket may be another process's as well, so it is not shut down:
		// the loop sees this at the latest when a short sleep ends.
		l.done.Store(true)
		_, _ = unix.Write(l.event, []byte{1, 0, 0, 0, 0, 0, 0, 0})
		err = <-ended
	}
	l.left.Wait()
	if err != nil {
		return fmt.Errorf("serve DNS over UDP: %w", err)
	}
	return nil
}

// onOwnThread starts f on a thread that ends with it. It is not the main thread,
// whose name and niceness are the process's for ps, pgrep and the like.
func onOwnThread(f func()) {
	started := make(chan struct{})
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			onOwnThread(f) // which gets another, for this one is taken until it has
			runtime.UnlockOSThread()
			close(started)
			return
		}
		close(started)
		f()
	}()
	<-started
}

// ownSocket takes the socket out of Go's hands, and with it out of Go's poller,
// which would be woken by each packet. It blocks from then on.
func ownSocket(conn *net.UDPConn) (fd int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, errors.Join(err, conn.Close())
	}
	ctl := raw.Control(func(old uintptr) {
		if fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0); err == nil {
			err = unix.SetNonblock(fd, false)
		}
	})
	if err = errors.Join(ctl, err, conn.Close()); err != nil && fd > 0 {
		err = errors.Join(err, unix.Close(fd))
	}
	return fd, err
}

// procs is for those who change the number of Ps, which is the process's.
var procs sync.Mutex

// addProc gives the process that many Ps more.
func addProc(n int) {
	procs.Lock()
	defer procs.Unlock()
	runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + n)
}

// prepare points the kernel's structures at the buffers.
func (l *udpLoop) prepare() {
	for k := range batchSize {
		l.inVecs[k].Base = &l.inBufs[k][0]
		l.inVecs[k].SetLen(maxUDP)
		l.in[k].hdr.Iov = &l.inVecs[k]
		l.in[k].hdr.SetIovlen(1)
		l.in[k].hdr.Name = &l.names[k][0]
		l.out[k].hdr.Iov = &l.outVecs[k]
		l.out[k].hdr.SetIovlen(1)
	}
}

func (l *udpLoop) run() error {
	for last := lastBatches; last > 0; {
		if l.done.Load() {
			last--
		}
		n, err := l.receive()
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return err
		case n == 0 && l.done.Load():
			return nil
		case n == 0:
			continue
		}
		if err := l.send(l.answer(n)); err != nil {
			return err
		}
	}
	return nil
}

// receive fills in from the socket: what is there at once, or where nothing is,
// what comes next.
func (l *udpLoop) receive() (int, error) {
	for k := range l.in {
		h := &l.in[k].hdr
		h.Namelen = sockaddrMax
		if l.wildcard {
			h.Control = &l.controls[k][0]
			h.SetControllen(controlMax)
		}
	}
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(l.fd), uintptr(unsafe.Pointer(&l.in[0])), batchSize, unix.MSG_DONTWAIT, 0, 0)
	if errno == 0 {
		return int(n), nil
	}
	if errno != unix.EAGAIN || l.done.Load() {
		if errno == unix.EAGAIN {
			return 0, nil
		}
		return 0, errno
	}
	n, _, errno = unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(l.fd), uintptr(unsafe.Pointer(&l.in[0])), batchSize, unix.MSG_WAITFORONE, 0, 0)
	switch errno {
	case 0:
	case unix.EAGAIN: // nothing came in shortSleep: now with the scheduler's knowledge
		fds := [...]unix.PollFd{{Fd: int32(l.fd), Events: unix.POLLIN}, {Fd: int32(l.event), Events: unix.POLLIN}}
		_, err := unix.Poll(fds[:], -1)
		return 0, err
	default:
		return 0, errno
	}
	return int(n), nil
}

// answer answers the first n messages of in and returns how many responses
// there are in out. What the fast path leaves goes to the ordinary one.
func (l *udpLoop) answer(n int) int {
	m := 0
	l.fast.begin()
	for k := range n {
		in := &l.in[k]
		packet := l.inBufs[k][:in.n]
		from := client{addr: l.from(k), transport: overUDP}
		b, ok := l.fast.answer(l.outBufs[m][:0], packet, from)
		if !ok {
			l.leave(k, packet, from)
			continue
		}
		out := &l.out[m].hdr
		l.outVecs[m].SetLen(len(b))
		l.outVecs[m].Base = &b[0]
		out.Name, out.Namelen = in.hdr.Name, in.hdr.Namelen
		out.Control, out.Controllen = nil, 0
		if l.wildcard {
			l.route(in)
			out.Control, out.Controllen = in.hdr.Control, in.hdr.Controllen
		}
		m++
	}
	return m
}

// from returns the address that a packet came from.
func (l *udpLoop) from(k int) netip.Addr {
	name := &l.names[k]
	if (*unix.RawSockaddr)(unsafe.Pointer(name)).Family == unix.AF_INET {
		return netip.AddrFrom4((*unix.RawSockaddrInet4)(unsafe.Pointer(name)).Addr)
	}
	return netip.AddrFrom16((*unix.RawSockaddrInet6)(unsafe.Pointer(name)).Addr).Unmap()
}

// route makes of what the kernel said of a packet's destination what says the
// response's source: the same, by whichever interface the route goes.
func (l *udpLoop) route(in *message) {
	head := unix.CmsgLen(0)
	if int(in.hdr.Controllen) < head {
		return
	}
	c := (*unix.Cmsghdr)(unsafe.Pointer(in.hdr.Control))
	data := unsafe.Slice(in.hdr.Control, in.hdr.Controllen)[head:]
	switch {
	case c.Level == unix.IPPROTO_IP && c.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
		clear(data[:4]) // the interface's number
	case c.Level == unix.IPPROTO_IPV6 && c.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
		if data[0] != 0xfe || data[1]&0xc0 != 0x80 { // link-local ones need it
			clear(data[16:20])
		}
	}
}

// send sends the first n messages of out.
func (l *udpLoop) send(n int) error {
	for from := 0; from < n; {
		sent, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(l.fd), uintptr(unsafe.Pointer(&l.out[from])), uintptr(n-from), unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			from += int(sent)
		case unix.EINTR:
		case unix.EBADF, unix.ENOTSOCK:
			return errno
		default:
			// That client cannot be reached, or the socket's buffer is full: of
			// packets to neighbours that do not answer, perhaps. Waiting would
			// make the answers behind it stale, and their clients wait.
			from++
		}
	}
	return nil
}

// leave gives a packet to the ordinary path, with all that its response needs:
// the buffers are for the next batch.
func (l *udpLoop) leave(k int, packet []byte, from client) {
	in := &l.in[k]
	if len(packet) == 0 {
		return
	}
	if l.wildcard {
		l.route(in)
	}
	back := &wayBack{fd: l.fd, name: l.names[k], nameLen: in.hdr.Namelen, control: l.controls[k]}
	if l.wildcard {
		back.controlLen = int(in.hdr.Controllen)
	}
	l.left.Add(1)
	taken := l.server.ordinary.take(job{append([]byte(nil), packet...), from, func(b []byte) {
		defer l.left.Done()
		if b != nil {
			back.send(b)
		}
	}})
	if !taken {
		l.left.Done()
	}
}

// wayBack is where one response goes.
type wayBack struct {
	fd         int
	name       [sockaddrMax]byte
	nameLen    uint32
	control    [controlMax]byte
	controlLen int
}

func (r *wayBack) send(b []byte) {
	vec := unix.Iovec{Base: &b[0]}
	vec.SetLen(len(b))
	h := unix.Msghdr{Name: &r.name[0], Namelen: r.nameLen, Iov: &vec}
	h.SetIovlen(1)
	if r.controlLen > 0 {
		h.Control = &r.control[0]
		h.SetControllen(r.controlLen)
	}
	for {
		_, _, errno := unix.Syscall(unix.SYS_SENDMSG, uintptr(r.fd), uintptr(unsafe.Pointer(&h)), unix.MSG_DONTWAIT)
		if errno != unix.EINTR {
			return // sent, or dropped as in send
		}
	}
}
