package integration

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// lan is a network of the test's own: nodes with a network namespace each,
// and a hub, a namespace with the switches between them, where the test is. There
// are two networks: cluster, where all nodes are, and clients, where those are
// that clients reach.
type lan struct {
	t     *testing.T
	ip    string // the program
	hub   *namespace
	nodes []*node

	mu   sync.Mutex
	lost map[way]int // how many faults keep a way from being passed; guarded by mu
}

// node is one machine of it, or the test's own place in it.
type node struct {
	at     *namespace
	number int
}

// way is what packets of the cluster network take from one node to another.
type way struct{ from, to *node }

// The two networks, by the third octet of their addresses. A node has its number
// as the last octet in both, and in its hardware addresses.
const (
	clusterNet = iota
	clientNet
)

var netNames = [...]string{clusterNet: "cluster", clientNet: "clients"}

// hubNumber is the test's own.
const hubNumber = 100

// nobody is a hardware address that no node has: the switch passes on what is
// sent there, and nobody takes it.
const nobody = "02:00:00:00:ff:ff"

func (n *node) addr(network int) string { return fmt.Sprintf("10.99.%d.%d", network, n.number) }

func (n *node) hardware(network int) string {
	return fmt.Sprintf("02:00:00:00:%02x:%02x", network, n.number)
}

// port is the node's plug in the switch of a network.
func (n *node) port(network int) string { return fmt.Sprintf("%s%d", netNames[network], n.number) }

// newLAN makes the hub, with both switches. It returns an error where network
// namespaces cannot be made.
func newLAN(t *testing.T) (*lan, error) {
	t.Helper()
	hub, err := newNamespace(t)
	if err != nil {
		return nil, err
	}
	n := &lan{t: t, hub: hub, lost: map[way]int{}}
	n.ip = tool(t, "ip")
	var script strings.Builder
	own := &node{at: hub, number: hubNumber}
	for _, k := range []int{clusterNet, clientNet} {
		fmt.Fprintf(&script, "link add name %s address %s type bridge\n", netNames[k], own.hardware(k))
		fmt.Fprintf(&script, "address add %s/24 dev %s\nlink set %[2]s up\n", own.addr(k), netNames[k])
	}
	n.batch(n.hub, "link set lo up\n"+script.String())
	n.nodes = append(n.nodes, own)
	return n, nil
}

// add adds a node that is on the given networks.
func (n *lan) add(number int, networks ...int) *node {
	n.t.Helper()
	at, err := newNamespace(n.t)
	if err != nil {
		n.t.Fatal(err)
	}
	one := &node{at: at, number: number}
	var plug, inside strings.Builder
	for _, k := range networks {
		fmt.Fprintf(&plug, "link add name %s type veth peer name %s address %s netns /proc/self/fd/3\n", one.port(k), netNames[k], one.hardware(k))
		fmt.Fprintf(&plug, "link set %s master %s up\n", one.port(k), netNames[k])
		fmt.Fprintf(&inside, "address add %s/24 dev %s\nlink set %[2]s up\n", one.addr(k), netNames[k])
	}
	n.batch(n.hub, plug.String(), at.f)
	n.batch(at, "link set lo up\n"+inside.String())
	n.nodes = append(n.nodes, one)
	return one
}

// wire tells each node the others' hardware addresses on the cluster network, as
// later faults change them.
func (n *lan) wire() {
	if n == nil {
		return
	}
	n.t.Helper()
	for _, from := range n.nodes {
		var script strings.Builder
		for _, to := range n.nodes {
			if from != to {
				script.WriteString(neighbour(to, to.hardware(clusterNet)))
			}
		}
		n.batch(from.at, script.String())
	}
}

func neighbour(to *node, hardware string) string {
	return fmt.Sprintf("neigh replace %s lladdr %s dev %s nud permanent\n", to.addr(clusterNet), hardware, netNames[clusterNet])
}

// batch has ip do what a script says, in a namespace.
func (n *lan) batch(at *namespace, script string, files ...*os.File) {
	n.t.Helper()
	cmd := exec.Command(n.ip, "-batch", "-")
	cmd.Stdin, cmd.ExtraFiles = strings.NewReader(script), files
	err := at.do(func() error {
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("ip -batch: %w: %s\n%s", err, out, script)
		}
		return nil
	})
	if err != nil {
		n.t.Error(err)
	}
}

// lose has the packets of the ways lost, without a word to anybody, until heal is
// called. A way that several faults take is back after the last.
func (n *lan) lose(ways ...way) (heal func()) {
	n.change(1, ways)
	return func() { n.change(-1, ways) }
}

func (n *lan) change(by int, ways []way) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, w := range ways {
		hardware := nobody
		if n.lost[w] += by; n.lost[w] == 0 {
			hardware = w.to.hardware(clusterNet)
		}
		n.batch(w.from.at, neighbour(w.to, hardware))
	}
}

// unplug pulls the node's plug out of the cluster network's switch.
func (n *lan) unplug(one *node) (heal func()) {
	set := func(state string) {
		n.batch(n.hub, fmt.Sprintf("link set %s %s\n", one.port(clusterNet), state))
	}
	set("down")
	return func() { set("up") }
}

// slow has what the node sends to the cluster network come late: by netem where
// the system has it, otherwise through a line that is far too narrow.
func (n *lan) slow(one *node) (heal func()) {
	tc := tool(n.t, "tc")
	device := []string{"dev", netNames[clusterNet], "root"}
	do := func(args ...string) error {
		return one.at.do(func() error { return exec.Command(tc, args...).Run() })
	}
	add := append([]string{"qdisc", "add"}, device...)
	if do(append(add, "netem", "delay", "60ms", "30ms")...) != nil {
		if err := do(append(add, "tbf", "rate", "400kbit", "burst", "4kb", "latency", "300ms")...); err != nil {
			n.t.Errorf("tc qdisc add tbf: %v", err)
			return func() {}
		}
	}
	return func() {
		if err := do(append([]string{"qdisc", "del"}, device...)...); err != nil {
			n.t.Errorf("tc qdisc del: %v", err)
		}
	}
}

// between returns the ways between each of some and each of others, both of them.
func between(some, others []*node) (ways []way) {
	for _, a := range some {
		for _, b := range others {
			if a != b {
				ways = append(ways, way{a, b}, way{b, a})
			}
		}
	}
	return ways
}

// dial opens a connection from the hub; from where the test is, without a network.
func (n *lan) dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	d := net.Dialer{Timeout: 5 * time.Second}
	if n == nil {
		return d.DialContext(ctx, network, address)
	}
	err = n.hub.do(func() error {
		conn, err = d.DialContext(ctx, network, address)
		return err
	})
	return conn, err
}
