package httpapi

import (
	"net"
	"sync"
	"time"
)

// net/http sets a connection's deadlines seven times for each request, and
// hardly one of them is still wanted when the connection is next read or
// written. To set one costs as much as a heartbeat, so it is put off until it
// matters.

// thriftyConn sets a deadline only when somebody reads or writes under it. To
// who uses it there is no difference, but that a write may end up to a second
// before its deadline.
type thriftyConn struct {
	net.Conn
	read, write deadlineState
}

// early is how much too early a write's deadline may be.
const early = time.Second

// deadlineState is one deadline of a connection.
type deadlineState struct {
	mu     sync.Mutex
	wanted time.Time
	set    time.Time
	users  int // reads, or writes, under way
}

// want notes a deadline, and sets it at once for those under way.
func (d *deadlineState) want(t time.Time, set func(time.Time) error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.wanted = t
	if d.users == 0 {
		return nil
	}
	d.set = t
	return set(t)
}

// begin sets the deadline that is wanted, unless it is that already or up to
// slack before it.
func (d *deadlineState) begin(slack time.Duration, set func(time.Time) error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.users++
	if d.wanted.IsZero() == d.set.IsZero() {
		if by := d.wanted.Sub(d.set); by >= 0 && by <= slack {
			return nil
		}
	}
	d.set = d.wanted
	return set(d.set)
}

func (d *deadlineState) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.users--
}

// Read implements [net.Conn].
func (c *thriftyConn) Read(b []byte) (int, error) {
	defer c.read.end()
	if err := c.read.begin(0, c.Conn.SetReadDeadline); err != nil {
		return 0, err
	}
	return c.Conn.Read(b)
}

// Write implements [net.Conn].
func (c *thriftyConn) Write(b []byte) (int, error) {
	defer c.write.end()
	if err := c.write.begin(early, c.Conn.SetWriteDeadline); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}

// SetReadDeadline implements [net.Conn].
func (c *thriftyConn) SetReadDeadline(t time.Time) error {
	return c.read.want(t, c.Conn.SetReadDeadline)
}

// SetWriteDeadline implements [net.Conn].
func (c *thriftyConn) SetWriteDeadline(t time.Time) error {
	return c.write.want(t, c.Conn.SetWriteDeadline)
}

// SetDeadline implements [net.Conn].
func (c *thriftyConn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}
