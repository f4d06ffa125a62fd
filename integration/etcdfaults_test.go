package integration

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"
)

// mishap is a fault of one kind. It lasts until heal is called.
type mishap struct {
	kind  string
	where string
	do    func() (heal func())
	stops int // the server that takes nothing in meanwhile, from 1; 0: none
}

func (m mishap) String() string { return m.kind + " " + m.where }

// mishaps returns one of each kind, at a place that rnd chooses. Those that cut
// something off are among them where there is a network.
func (h *hosts) mishaps(t *testing.T, rnd *rand.Rand) []mishap {
	t.Helper()
	k := rnd.IntN(len(h.members))
	at := rnd.IntN(len(h.servers))
	m, s := h.members[k], h.servers[at]
	all := []mishap{
		{kind: "etcd member killed:", where: m.client, do: func() func() { return m.down(t) }},
		{kind: "etcd leader killed", do: func() func() { return h.downLeader(t, m) }},
		{kind: "etcd member stopped:", where: m.client, do: func() func() { return m.hold() }},
		{kind: "server stopped:", where: s.name, do: func() func() { return s.program.Load().hold() }, stops: at + 1},
	}
	if h.net == nil {
		return all
	}
	cut := func(ways ...way) func() func() {
		return func() func() { return h.net.lose(ways...) }
	}
	members, servers := h.memberNodes(), h.serverNodes()
	own := []*node{m.node, h.servers[k].node}
	others := slices.DeleteFunc(append(slices.Clone(members), servers...), func(n *node) bool { return slices.Contains(own, n) })
	return append(all,
		mishap{kind: "host cut off from the others:", where: h.servers[k].name + " and " + m.client, do: cut(between(own, others)...)},
		mishap{kind: "server cut off from etcd:", where: s.name, do: cut(between([]*node{s.node}, members)...)},
		mishap{kind: "server cut off from one member:", where: s.name + " from " + m.client, do: cut(between([]*node{s.node}, []*node{m.node})...)},
		mishap{kind: "server does not hear etcd:", where: s.name, do: cut(toward(s.node, members)...)},
		mishap{kind: "etcd does not hear server:", where: s.name, do: cut(from(s.node, members)...)},
		mishap{kind: "member cut off from the other members:", where: m.client, do: cut(between([]*node{m.node}, members)...)},
		mishap{kind: "members cut off from each other", do: cut(onceEach(members)...)},
		mishap{kind: "servers cut off from etcd", do: cut(between(servers, members)...)},
		mishap{kind: unplugged, where: s.name, do: func() func() { return h.net.unplug(s.node) }, stops: at + 1},
		mishap{kind: "member's network is slow:", where: m.client, do: func() func() { return h.net.slow(m.node) }},
	)
}

func (h *hosts) memberNodes() (nodes []*node) {
	for _, m := range h.members {
		nodes = append(nodes, m.node)
	}
	return nodes
}

func (h *hosts) serverNodes() (nodes []*node) {
	for _, s := range h.servers {
		nodes = append(nodes, s.node)
	}
	return nodes
}

// toward are the ways to one node from others, from those from it.
func toward(one *node, others []*node) (ways []way) {
	for _, o := range others {
		ways = append(ways, way{o, one})
	}
	return ways
}

func from(one *node, others []*node) (ways []way) {
	for _, o := range others {
		ways = append(ways, way{one, o})
	}
	return ways
}

// onceEach are all ways among the nodes.
func onceEach(nodes []*node) (ways []way) {
	for _, n := range nodes {
		ways = append(ways, from(n, slices.DeleteFunc(slices.Clone(nodes), func(o *node) bool { return o == n }))...)
	}
	return ways
}

// down kills a member. It is started again with the data that it had.
func (m *member) down(t *testing.T) (heal func()) {
	t.Helper()
	m.kill()
	return func() { m.start(t) }
}

// downLeader kills the member that leads, or another where none does.
func (h *hosts) downLeader(t *testing.T, other *member) (heal func()) {
	t.Helper()
	if m := h.leader(); m != nil {
		other = m
	}
	return other.down(t)
}

const unplugged = "server's plug pulled:"

// hold stops a process, which goes on when it is healed.
func (p *process) hold() (heal func()) {
	_ = p.Process.Signal(syscall.SIGSTOP)
	return func() { _ = p.Process.Signal(syscall.SIGCONT) }
}

// Each fault of the network keeps those from each other that it says, and nobody
// else; and when it is healed, nobody.
func TestNetworkFaults(t *testing.T) {
	t.Parallel()
	h := newMembers(t)
	if h.net == nil {
		t.Skip("without network namespaces nothing can be cut off")
	}
	h.addServers(t) // their nodes only
	h.net.wire()
	a, b := h.servers[0].node, h.servers[1].node
	m, o := h.members[0], h.members[1]
	members := h.memberNodes()
	for _, c := range []struct {
		what     string
		fault    func() func()
		lost     []way // TCP does not come through, one way or the other
		majority bool  // whether etcd has one
	}{
		{"all from all", func() func() { return h.net.lose(between(h.serverNodes(), members)...) }, between(h.serverNodes(), members), true},
		{"one way", func() func() { return h.net.lose(way{m.node, a}) }, []way{{a, m.node}}, true},
		{"the other way", func() func() { return h.net.lose(way{a, m.node}) }, []way{{a, m.node}}, true},
		{"unplugged", func() func() { return h.net.unplug(b) }, between([]*node{b}, members), true},
		{"members from each other", func() func() { return h.net.lose(onceEach(members)...) }, nil, false},
		{"a member from the others", func() func() { return h.net.lose(between([]*node{o.node}, members)...) }, nil, true},
	} {
		heal := c.fault()
		h.reach(t, c.what, c.lost)
		until(t, 10*time.Second, c.what+": etcd's majority", func() bool { return c.majority == (h.leader() != nil) })
		heal()
		h.reach(t, c.what+", healed", nil)
		until(t, 10*time.Second, c.what+": a leader", func() bool { return h.leader() != nil })
	}
}

// reach fails the test where a server's node does not come through to a member,
// or does on one of the lost ways.
func (h *hosts) reach(t *testing.T, what string, lost []way) {
	t.Helper()
	var g sync.WaitGroup
	for _, s := range h.servers {
		for _, m := range h.members {
			g.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
				if !slices.Contains(lost, way{s.node, m.node}) {
					ctx, cancel = context.WithTimeout(t.Context(), 5*time.Second)
				}
				defer cancel()
				err := s.at.do(func() error {
					conn, err := new(net.Dialer).DialContext(ctx, "tcp", m.client)
					if err == nil {
						conn.Close()
					}
					return err
				})
				if came := err == nil; came == slices.Contains(lost, way{s.node, m.node}) {
					t.Errorf("%s: %s to %s: %v", what, s.name, m.client, fmt.Sprint(err))
				}
			})
		}
	}
	g.Wait()
}
