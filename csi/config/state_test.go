package config

import (
	"testing"

	"github.com/orlop-io/orlop/csi/host"
)

// A driver that ends leaves what it knows of its volumes mounted, and nothing where there are none.
func TestStateIsTakenAway(t *testing.T) {
	w := newWorld(t)
	w.grant(w.ns, account1)
	w.set("ConfigMap", w.ns, "cm", "1")
	mounted := func() bool {
		t.Helper()
		m, err := w.driver.host.MountAt(w.stateDir())
		must(t, err)
		return m != nil
	}
	p := w.pod("p", account1, map[string]string{"kind": "ConfigMap", "name": "cm"})
	must(t, p.publish())
	must(t, w.driver.Close())
	if !mounted() {
		t.Error("the record of a volume is gone")
	}
	w.start()
	must(t, p.unpublish())
	must(t, w.driver.Close())
	if mounted() {
		t.Error("without volumes the state is still mounted")
	}
	w.driver = nil
}

// A driver that waits for the one before it never goes on with a directory that this one took away.
func TestStateWhileAnotherEnds(t *testing.T) {
	w := newWorld(t)
	w.stop()
	h := host.New(nil)
	for range 50 {
		before, err := openState(t.Context(), h, w.stateDir())
		must(t, err)
		opened := make(chan *state)
		go func() {
			defer close(opened)
			after, err := openState(t.Context(), h, w.stateDir())
			if err != nil {
				t.Error(err)
				return
			}
			opened <- after
		}()
		must(t, before.close())
		after := <-opened
		if after == nil {
			return
		}
		there, err := after.mounted()
		m, mountErr := h.MountAt(w.stateDir())
		must(t, err, mountErr, after.close())
		if !there || m == nil || m.Source != stateSource {
			t.Fatalf("the second driver's state is seen: %t, mounted is %v", there, m)
		}
	}
}
