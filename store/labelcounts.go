package store

import (
	"sync"
	"sync/atomic"
)

// labelCounts says which labels stand above services in the zone: _tcp and
// _udp where an instance speaks that protocol, _v2 where one carries the tag.
// Only restore and apply, which never run at the same time, count.
type labelCounts struct {
	protocols [2]atomic.Int64
	tags      sync.Map // string -> *atomic.Int64
}

// count replaces what before contributed by what after does; either may be nil.
func (c *labelCounts) count(before, after *Instance) {
	c.add(after, 1) // first, so that a label that stays never passes through 0
	c.add(before, -1)
}

func (c *labelCounts) add(i *Instance, by int64) {
	if i == nil {
		return
	}
	c.protocols[i.Protocol].Add(by)
	for _, t := range i.Tags {
		l, ok := TagLabel(t)
		if !ok {
			continue
		}
		n, _ := c.tags.LoadOrStore(l, new(atomic.Int64))
		if n.(*atomic.Int64).Add(by) == 0 { //nolint:errcheck // only this stores
			c.tags.Delete(l)
		}
	}
}

// total returns how many instances are counted: each speaks one protocol.
func (c *labelCounts) total() int {
	return int(c.protocols[TCP].Load() + c.protocols[UDP].Load())
}

func (c *labelCounts) has(label string) bool {
	_, ok := c.tags.Load(label)
	return ok
}
