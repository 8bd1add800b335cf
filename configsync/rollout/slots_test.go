package rollout

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

func numbered(i int) identity { return identity{deployment, "ns", fmt.Sprint(i)} }

// TestSlotsAreFair: whoever came first is served first, however often the others ask.
func TestSlotsAreFair(t *testing.T) {
	var woken []identity
	s := newSlots(2, func(id identity) { woken = append(woken, id) })
	now := time.Unix(1, 0)
	for i := range 6 {
		if got := s.take(numbered(i), now); got != (i < 2) {
			t.Fatalf("%d took a place: %t", i, got)
		}
	}
	for range 3 {
		for i := 5; i > 1; i-- {
			if s.take(numbered(i), now) {
				t.Fatalf("%d took a place that there is not", i)
			}
		}
	}
	if !s.take(numbered(0), now) {
		t.Error("who has a place has it not")
	}
	s.hold(numbered(0), slot{generation: 7, since: now})
	s.leave(numbered(0)) // which runs: it has nothing to leave
	if len(woken) > 0 {
		t.Errorf("woken: %v", woken)
	}
	s.release(numbered(0))
	if want := []identity{numbered(2)}; !slices.Equal(woken, want) {
		t.Errorf("woken: %v, want %v", woken, want)
	}
	if s.take(numbered(3), now) {
		t.Error("3 pushed in before 2")
	}
	s.leave(numbered(2)) // which has changed its mind
	if woken[len(woken)-1] != numbered(3) || !s.take(numbered(3), now) {
		t.Errorf("3 is next, woken: %v", woken)
	}
	s.leave(numbered(1)) // which never rolled
	if !s.take(numbered(4), now) || s.take(numbered(5), now) {
		t.Error("4 is next, and 5 is not")
	}
	if running, waiting := s.count(); running != 2 || waiting != 1 {
		t.Errorf("%d run, %d wait", running, waiting)
	}
	s.release(numbered(9))
	s.leave(numbered(9))
}

// TestSlotsOverfull: rollouts that a former controller with another limit began count, and none is added.
func TestSlotsOverfull(t *testing.T) {
	woken := 0
	s := newSlots(1, func(identity) { woken++ })
	for i := range 3 {
		s.hold(numbered(i), slot{generation: 1, since: time.Unix(1, 0)})
	}
	for i := range 3 {
		if s.take(numbered(7), time.Unix(1, 0)) || woken > 0 {
			t.Fatal("a place was given with too many taken")
		}
		s.release(numbered(i))
	}
	if woken != 1 || !s.take(numbered(7), time.Unix(1, 0)) {
		t.Error("a free place was not given")
	}
}

func TestSlotsUnlimited(t *testing.T) {
	s := newSlots(0, func(identity) { t.Error("nobody waits") })
	for i := range 100 {
		if !s.take(numbered(i), time.Unix(1, 0)) {
			t.Fatal("no place")
		}
	}
	for i := range 100 {
		s.release(numbered(i))
	}
}
