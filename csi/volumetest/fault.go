package volumetest

import (
	"errors"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/csi/host"
	"github.com/orlop-io/orlop/csi/volume"
)

// step is one operation in the life of a volume.
type step struct {
	name string
	run  func(w *world, id volume.ID) error
}

// life is what happens to the one volume of a fault test, in order.
var life = []step{
	{"create", func(w *world, _ volume.ID) error {
		_, err := w.Create(w.t.Context(), w.spec("a"))
		return err
	}},
	{"stage", func(w *world, id volume.ID) error { return w.Stage(w.t.Context(), id, w.staging(), mountWriter) }},
	{"publish", func(w *world, id volume.ID) error { return w.Publish(w.t.Context(), id, w.publishRequest(1)) }},
	{"unpublish", func(w *world, id volume.ID) error { return w.Unpublish(w.t.Context(), id, w.target(1)) }},
	{"unstage", func(w *world, id volume.ID) error { return w.Unstage(w.t.Context(), id, w.staging()) }},
	{"delete", func(w *world, id volume.ID) error { return w.Delete(w.t.Context(), id) }},
	{"settle", func(w *world, _ volume.ID) error { return w.Settle(w.t.Context()) }},
}

// crashed is what a crashing fault panics with.
type crashed struct{ label host.Label }

// labelsOf runs a whole life and returns the labels that each of its operations passes, in order.
func labelsOf(t *testing.T, s Subject) (labels map[string][]host.Label, id volume.ID) {
	w := newWorld(t, s)
	labels = map[string][]host.Label{}
	id = w.create("a").ID
	w.ok(w.Delete(t.Context(), id))
	w.ok(w.Settle(t.Context()))
	current := ""
	w.reopen(func(l host.Label) error {
		if current != "" {
			labels[current] = append(labels[current], l)
		}
		return nil
	})
	for _, st := range life {
		current = st.name
		w.ok(st.run(w, id))
	}
	current = ""
	w.clean()
	return labels, id
}

// at returns a fault that acts at the nth labelled call after it is armed.
func at(n int, act func(host.Label) error) (fault host.Fault, arm func()) {
	armed, seen := false, 0
	fault = func(l host.Label) error {
		if !armed {
			return nil
		}
		seen++
		if seen-1 != n {
			return nil
		}
		armed = false
		return act(l)
	}
	return fault, func() { armed = true }
}

// everyStep runs test once for every labelled call of every operation, in a fresh world in which the operations before
// it have been done, with a fault that acts at that call.
func everyStep(
	t *testing.T, s Subject, act func(host.Label) error, test func(w *world, id volume.ID, i int),
) {
	t.Helper()
	stepsOf(t, s, life, act, test)
}

// stepsOf does the same for the first operations of a life alone.
func stepsOf(
	t *testing.T, s Subject, ops []step, act func(host.Label) error, test func(w *world, id volume.ID, i int),
) {
	t.Helper()
	labels, id := labelsOf(t, s)
	for i, st := range ops {
		for n, label := range labels[st.name] {
			t.Run(fmt.Sprintf("%s/%d %s", st.name, n, label), func(t *testing.T) {
				w := newWorld(t, s)
				fault, arm := at(n, act)
				w.reopen(fault)
				for _, before := range life[:i] {
					w.ok(before.run(w, id))
					if before.name == "publish" {
						w.write("kept")
					}
				}
				arm()
				test(w, id, i)
			})
		}
	}
}

// testCrash kills the service at every step. Started again, it takes the operation up where it was, nothing is lost and
// nothing is left.
func testCrash(t *testing.T, s Subject) {
	everyStep(t, s, func(l host.Label) error { panic(crashed{l}) }, func(w *world, id volume.ID, i int) {
		if !crashes(w, id, life[i]) {
			w.t.Fatal("the crash did not happen")
		}
		w.reopen(nil)
		if life[i].name == "create" {
			abandoned(w)
		}
		w.finish(id, i)
	})
}

// crashes runs the operation and reports whether the fault stopped it.
func crashes(w *world, id volume.ID, st step) (yes bool) {
	defer func() {
		if r := recover(); r != nil {
			if _, yes = r.(crashed); !yes {
				panic(r)
			}
		}
	}()
	w.ok(st.run(w, id))
	return false
}

// abandoned checks that a creation which nobody takes up again has left nothing, unless it was complete.
func abandoned(w *world) {
	w.t.Helper()
	if len(w.list()) == 0 {
		w.clean()
	}
}

// finish repeats operation i, which was interrupted, and goes on to the end of the volume's life.
func (w *world) finish(id volume.ID, i int) {
	w.t.Helper()
	for _, st := range life[i:] {
		if err := st.run(w, id); err != nil {
			w.t.Fatalf("%s after the interruption: %v", st.name, err)
		}
		if st.name == "publish" {
			w.write("kept")
		}
		if st.name == "unpublish" || st.name == "unstage" {
			w.checkKept(id)
		}
	}
	w.gone(id)
}

// checkKept looks at the data from a target of its own.
func (w *world) checkKept(id volume.ID) {
	w.t.Helper()
	w.ok(w.Stage(w.t.Context(), id, w.staging(), mountWriter))
	w.ok(w.Publish(w.t.Context(), id, w.publishRequest(2)))
	if got := w.read(2); got != "kept" {
		w.t.Errorf("the volume holds %q", got)
	}
	w.ok(w.Unpublish(w.t.Context(), id, w.target(2)))
	w.ok(w.Unstage(w.t.Context(), id, w.staging()))
}

// testError fails every step once. The operation says so or copes, and succeeds when it is repeated.
func testError(t *testing.T, s Subject) {
	everyStep(t, s, func(host.Label) error { return unix.EIO }, func(w *world, id volume.ID, i int) {
		if err := life[i].run(w, id); err != nil && !errors.Is(err, unix.EIO) {
			w.t.Errorf("the cause is lost: %v", err)
		}
		if life[i].name == "create" {
			abandoned(w)
		}
		w.finish(id, i)
	})
}

// testFull has the disk full at every step of creation.
func testFull(t *testing.T, s Subject) {
	stepsOf(t, s, life[:1], func(host.Label) error { return unix.ENOSPC }, func(w *world, id volume.ID, i int) {
		_, err := w.Create(w.t.Context(), w.spec("a"))
		w.fails(err, volume.ErrExhausted)
		if len(w.list()) != 0 {
			w.t.Errorf("a volume that could not be made is listed")
		}
		w.clean()
		w.finish(id, i)
	})
}
