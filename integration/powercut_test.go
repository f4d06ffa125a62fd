package integration

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/bolt"
)

// torture reports whether the long forms of tests are asked for.
func torture() bool { return os.Getenv("ROSTER_TORTURE") == "1" }

// A power cut at any moment, and kill -9, on a disk that fails and tears what
// it is given: whatever of the last writes has come to the disk, the file
// opens, with all that was acknowledged and nothing that was deregistered.
func TestPowerCuts(t *testing.T) {
	t.Parallel()
	rounds, each := 5, 250
	if torture() {
		rounds, each = 50, 1000
	}
	for name, faulty := range map[string]bool{"on a good disk": false, "on a bad disk": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCuts(t, faulty)
			for range rounds {
				c.round(t, each)
			}
			t.Logf("%d changes acknowledged, %d refused, %d faults, %d kills; %d power cuts, none lost",
				c.acked.Load(), c.refused.Load(), c.disk.faults(), rounds, c.checked)
			if c.checked < 100 || c.acked.Load() < 100 || faulty && (c.disk.faults() < 10 || c.refused.Load() < 5) {
				t.Error("too few for the test to say something")
			}
		})
	}
}

// cuts are the power cuts of one disk.
type cuts struct {
	disk   *disk
	random *rand.Rand // of the disk's, under its mu
	faulty bool
	seed   uint64
	rounds uint64

	mu       sync.Mutex
	history  map[string][]change // by ID, in order; guarded by mu
	images   []image             // guarded by the disk's mu
	pending  int                 // of a run of faults: how many are to come; guarded by the disk's mu
	checked  int
	acked    atomic.Int64
	refused  atomic.Int64
	imageDir string
}

// change is what a client has asked for: a port, 0 for a deregistration.
type change struct {
	port       int
	begin, end int // steps of the disk: before it was sent, and when it was answered
	outcome    outcome
}

type outcome int

const (
	unanswered outcome = iota
	acknowledged
	refused
)

// image is what a power cut after that many steps may have left.
type image struct {
	step    int
	content []byte
}

func newCuts(t *testing.T, faulty bool) *cuts {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	c := &cuts{disk: mountDisk(t), random: rand.New(rand.NewPCG(seed, 1)), faulty: faulty, seed: seed, history: map[string][]change{}, imageDir: t.TempDir()}
	if dir, err := os.MkdirTemp("/dev/shm", "roster"); err == nil { //nolint:usetesting // in memory, where that is
		c.imageDir = dir
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
	}
	c.disk.roster(t).stop(t)
	content, err := os.ReadFile(c.disk.path())
	if err != nil {
		t.Fatal(err)
	}
	c.disk.mu.Lock()
	c.disk.media = newMedia(content, c.cut)
	c.disk.mu.Unlock()
	return c
}

// cut takes images after a step of the disk.
func (c *cuts) cut(m *media, step int) {
	r := c.random
	if m.open() == 0 || r.IntN(3) > 0 {
		return
	}
	var choose func(n int) int
	switch r.IntN(4) {
	case 0:
		choose = func(int) int { return 0 }
	case 1:
		choose = func(n int) int { return n - 1 }
	case 2:
		choose = r.IntN
	default: // nearly all of it
		choose = func(n int) int {
			if r.IntN(4) == 0 {
				return r.IntN(n)
			}
			return n - 1
		}
	}
	c.images = append(c.images, image{step, m.image(r, choose)})
}

// strike is the fault of a bad disk.
func (c *cuts) strike(op string, size int) (done int, errno syscall.Errno) {
	r := c.random
	rare := 60
	if op == "sync" {
		rare = 15
	}
	if c.pending == 0 && r.IntN(rare) > 0 {
		return 0, 0
	}
	if c.pending--; c.pending < 0 {
		c.pending = r.IntN(6)
	}
	if op == "write" {
		done = r.IntN(size/sector+1) * sector
	}
	return done, []syscall.Errno{syscall.EIO, syscall.ENOSPC, syscall.EROFS}[r.IntN(3)]
}

// round has clients change what is registered, kills the server in the middle,
// and checks what was kept by it and by power cuts meanwhile.
func (c *cuts) round(t *testing.T, each int) {
	t.Helper()
	r := c.disk.roster(t)
	c.compare(t, r)
	if c.faulty {
		c.disk.breakWith(c.strike)
	}
	const clients, ids = 6, 4
	var stop atomic.Bool
	var done atomic.Int64
	enough := make(chan struct{})
	var g sync.WaitGroup
	c.rounds++
	for client := range clients {
		// Others in each round: what is registered twice in the same way is a
		// heartbeat, and says nothing of the disk.
		random := rand.New(rand.NewPCG(c.seed+c.rounds, uint64(client)))
		g.Go(func() {
			for !stop.Load() {
				c.change(r, fmt.Sprintf("c%d-%d", client, random.IntN(ids)), random)
				if done.Add(1) == int64(each) {
					close(enough)
				}
			}
		})
	}
	select {
	case <-enough:
	case <-time.After(time.Minute):
		t.Fatalf("%d changes took over a minute", each)
	}
	if err := r.end(t, syscall.SIGKILL, 10*time.Second); err == nil {
		t.Fatal("kill -9 ended it without an error")
	}
	stop.Store(true)
	g.Wait()
	c.disk.breakWith(nil)
	r = c.disk.roster(t)
	c.compare(t, r)
	r.stop(t)
	c.checkImages(t)
}

// change registers an instance, or deregisters it.
func (c *cuts) change(r *roster, id string, random *rand.Rand) {
	ch := change{begin: c.step()}
	method, body := http.MethodDelete, ""
	if random.IntN(4) > 0 {
		ch.port = 1 + random.IntN(60000)
		pad := strings.Repeat("x", random.IntN(200))
		meta := []string{}
		for k := range random.IntN(8) * random.IntN(8) {
			meta = append(meta, fmt.Sprintf(`"k%d":"%s"`, k, pad))
		}
		method, body = http.MethodPut, fmt.Sprintf(`{"port":%d,"ttl":3600,"meta":{%s}}`, ch.port, strings.Join(meta, ","))
	}
	status, _, err := r.call(method, "/v1/services/web/instances/"+id, body)
	ch.end = c.step()
	switch {
	case err != nil:
	case status == http.StatusServiceUnavailable:
		ch.outcome = refused
		c.refused.Add(1)
	case status == http.StatusNotFound && method == http.MethodDelete: // it says what is so already
		return
	default:
		ch.outcome = acknowledged
		c.acked.Add(1)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.history[id] = append(c.history[id], ch)
}

func (c *cuts) step() int {
	c.disk.mu.Lock()
	defer c.disk.mu.Unlock()
	return c.disk.media.steps
}

// compare checks what a server has at its start, and takes that for what is so
// from now on.
func (c *cuts) compare(t *testing.T, r *roster) {
	t.Helper()
	found := map[string]int{}
	for id, i := range r.listed(t) {
		found[id] = i.Port
	}
	now := c.step()
	c.expect(t, fmt.Sprintf("kill -9 at step %d", now), found, now)
	for id := range c.history {
		c.history[id] = append(c.history[id], change{found[id], now, now, acknowledged})
	}
}

func (c *cuts) checkImages(t *testing.T) {
	t.Helper()
	for _, i := range c.images {
		found := c.reopen(t, i)
		c.expect(t, fmt.Sprintf("a power cut at step %d", i.step), found, i.step)
		c.checked++
		if t.Failed() {
			t.FailNow()
		}
	}
	c.images = nil
}

// reopen returns what a server finds in an image. Now and then it goes on with
// it.
func (c *cuts) reopen(t *testing.T, i image) map[string]int {
	t.Helper()
	path := filepath.Join(c.imageDir, "image.db")
	if err := os.WriteFile(path, i.content, 0o600); err != nil {
		t.Fatal(err)
	}
	b, err := bolt.Open(path, bolt.Config{})
	if err != nil {
		t.Fatalf("after a power cut at step %d: %v", i.step, err)
	}
	reg, err := store.Open(t.Context(), b, store.Config{})
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]int{}
	if v := reg.Service("web"); v != nil {
		for m := range v.Members(reg.Now()) {
			found[m.ID] = int(m.Port)
		}
	}
	if err := reg.Close(); err != nil {
		t.Fatal(err)
	}
	return found
}

// expect checks what was found after a step of the disk.
func (c *cuts) expect(t *testing.T, when string, found map[string]int, step int) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	put := c.heals()
	known := 0
	for id, list := range c.history {
		if _, ok := found[id]; ok {
			known++
		}
		if may := mayHave(list, step, put); !slices.Contains(may, found[id]) {
			t.Errorf("%s: %s has port %d (0: it is not there), and may have %v; its history is %+v", when, id, found[id], may, list)
		}
	}
	if known != len(found) {
		t.Errorf("%s: there are %v, of which some were never registered", when, found)
	}
}

// mayHave returns the ports that an instance may have after a step: that of
// the last change acknowledged by then, of those under way, and of refused ones
// until the file is put right.
func mayHave(list []change, step int, heals []change) []int {
	may := []int{0}
	for _, ch := range list {
		switch {
		case ch.begin > step, ch.begin == step && ch.end > step:
			return may
		case ch.outcome == acknowledged && ch.end <= step:
			may = []int{ch.port}
		case ch.outcome != refused || !healed(heals, ch.end, step):
			may = append(may, ch.port)
		}
	}
	return may
}

// heals returns the changes that were acknowledged, by their beginning; the end
// of each is the first of those that follow.
func (c *cuts) heals() []change {
	var all []change
	for _, list := range c.history {
		for _, ch := range list {
			if ch.outcome == acknowledged && ch.end > ch.begin {
				all = append(all, ch)
			}
		}
	}
	slices.SortFunc(all, func(a, b change) int { return a.begin - b.begin })
	for k := len(all) - 2; k >= 0; k-- {
		all[k].end = min(all[k].end, all[k+1].end)
	}
	return all
}

// healed reports whether a change that was sent after one step had been
// acknowledged by another.
func healed(heals []change, after, step int) bool {
	k, _ := slices.BinarySearchFunc(heals, after, func(ch change, after int) int { return ch.begin - after })
	return k < len(heals) && heals[k].end <= step
}
