package etcd

import (
	"testing"
	"time"
)

// After our host was suspended, the other's clock is found to be further ahead.
func TestApartAfterSuspend(t *testing.T) {
	t.Parallel()
	ticks := ticks{apart: map[string]*apart{}}
	ticks.back(ticks.send(10*time.Second), 7)
	if most, ok := ticks.compare("b", stamp{age: 40 * time.Second, seen: 7}, 11*time.Second); !ok || most != 30*time.Second+drift(time.Second) {
		t.Fatalf("at first: %v, %v", most, ok)
	}
	ticks.back(ticks.send(12*time.Second), 9) // and a minute has passed that our clock did not count
	if most, ok := ticks.compare("b", stamp{age: 103 * time.Second, seen: 9}, 13*time.Second); !ok || most != 91*time.Second+drift(time.Second) {
		t.Errorf("after the suspension the other is ahead by at most %v, %v; want 1m31.01s", most, ok)
	}
}
