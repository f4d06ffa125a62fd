package store_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/storetest"
)

func TestResumeWithoutAGap(t *testing.T) {
	r, _ := storetest.Open(t, memory, store.Config{History: 8})
	start := r.Revision()
	for k := range 6 {
		storetest.Register(t, r, storetest.Instance([]string{"web", "db"}[k%2], fmt.Sprintf("a%d", k)))
	}
	sub, past, err := r.Subscribe("web", start+1, 4)
	if err != nil {
		t.Fatal(err)
	}
	storetest.Register(t, r, storetest.Instance("web", "late"))
	var got []store.Revision
	for _, e := range append(past, <-sub.C) {
		got = append(got, e.Revision-start)
	}
	if fmt.Sprint(got) != "[3 5 7]" {
		t.Errorf("got the revisions %v, want [3 5 7]", got)
	}

	for k := range 8 {
		storetest.Register(t, r, storetest.Instance("web", fmt.Sprintf("b%d", k)))
	}
	for _, c := range []struct {
		after store.Revision
		want  error
	}{
		{start + 6, store.ErrCompacted},
		{start + 7, nil},
		{r.Revision(), nil},
		{r.Revision() + 1, store.ErrCompacted}, // of another registry's life
	} {
		if _, _, err := r.Subscribe("", c.after, 1); !errors.Is(err, c.want) {
			t.Errorf("subscribe after start+%d: %v, want %v", c.after-start, err, c.want)
		}
	}
}

func TestSlowSubscriberIsCutOff(t *testing.T) {
	r, _ := storetest.Open(t, memory, store.Config{})
	start := r.Revision()
	slow, _, err := r.Subscribe("", start, 2)
	if err != nil {
		t.Fatal(err)
	}
	quick, _, err := r.Subscribe("", start, 3)
	if err != nil {
		t.Fatal(err)
	}
	for k := range 3 {
		storetest.Register(t, r, storetest.Instance("web", fmt.Sprintf("a%d", k)))
	}
	var last store.Revision
	for e := range slow.C {
		last = e.Revision
	}
	if last != start+2 || !errors.Is(slow.Err(), store.ErrLagged) {
		t.Errorf("the slow one got up to %d and %v, want %d and ErrLagged", last, slow.Err(), start+2)
	}
	if _, past, err := r.Subscribe("", last, 1); err != nil || len(past) != 1 {
		t.Errorf("it resumes with %d events and %v, want the one that it missed", len(past), err)
	}
	quick.Close()
	quick.Close()
	n := 0
	for range quick.C {
		n++
	}
	if n != 3 || quick.Err() != nil {
		t.Errorf("the quick one got %d and %v, want 3 and no error", n, quick.Err())
	}
}
