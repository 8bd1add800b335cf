package rollout

import (
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// slots bounds how many rollouts run at a time. Whoever waits is served in the order of coming. It may be used by several
// goroutines.
type slots struct {
	max  int // 0 for no limit
	wake func(identity)

	mu   sync.Mutex
	held map[identity]slot
	line []identity
}

// slot is a place that a rollout takes.
type slot struct {
	// uid is the workload's: another one of its name has no part in it.
	uid types.UID
	// generation is the workload's that the roll made, 0 as long as it is not made. A status before it says nothing.
	generation int64
	since      time.Time
}

func newSlots(most int, wake func(identity)) *slots {
	return &slots{max: most, wake: wake, held: map[identity]slot{}}
}

// take gives a workload a place, or puts it at the end of the line. Whoever has one has it.
func (s *slots) take(id identity, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.held[id]; ok {
		return true
	}
	at := slices.Index(s.line, id)
	if at < 0 {
		at = len(s.line)
		s.line = append(s.line, id)
	}
	if s.max > 0 && at >= s.max-len(s.held) {
		return false
	}
	s.line = slices.Delete(s.line, at, at+1)
	s.held[id] = slot{since: now}
	return true
}

// hold notes that a rollout runs, whether there is a place for it or not.
func (s *slots) hold(id identity, place slot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held[id] = place
}

// get returns the place that a workload has.
func (s *slots) get(id identity) (slot, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h, ok := s.held[id]
	return h, ok
}

// release gives a workload's place back, and wakes whoever is next.
func (s *slots) release(id identity) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.held[id]; !ok {
		return
	}
	delete(s.held, id)
	s.next()
}

// leave takes a workload out of the line, and gives back a place that it has not used.
func (s *slots) leave(id identity) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h, ok := s.held[id]; ok && h.generation == 0 {
		delete(s.held, id)
	} else if at := slices.Index(s.line, id); at >= 0 {
		s.line = slices.Delete(s.line, at, at+1)
	} else {
		return
	}
	s.next()
}

// next wakes as many of the line as there are places. s.mu is held.
func (s *slots) next() {
	for i := range min(len(s.line), max(0, s.max-len(s.held))) {
		s.wake(s.line[i])
	}
}

// count returns how many run, and how many wait.
func (s *slots) count() (running, waiting int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.held), len(s.line)
}
