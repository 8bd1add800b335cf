package rollout

import (
	"errors"
	"fmt"
	"maps"
	"testing"

	"github.com/orlop-io/orlop/configsync/source"
)

func TestJudge(t *testing.T) {
	denied := errors.New("forbidden")
	a, needed, optional := configMap("a"), demand{}, demand{optional: true}
	for _, c := range []struct {
		name   string
		key    string // of the baseline
		old    map[string]string
		demand demand
		seen   sighting
		// What the baseline has for the object without and with a roll; empty for nothing.
		keep, roll             string
		changed, gone, refused bool
		early                  bool
	}{
		{name: "new", seen: sighting{sum: "1"}, keep: "1", roll: "1"},
		{name: "same", old: map[string]string{"ConfigMap/a": "1"}, seen: sighting{sum: "1"}, keep: "1", roll: "1"},
		{name: "changed", old: map[string]string{"ConfigMap/a": "1"}, seen: sighting{sum: "2"}, keep: "1", roll: "2", changed: true},
		{name: "under another key", key: "other", old: map[string]string{"ConfigMap/a": "1"}, seen: sighting{sum: "2"},
			keep: "2", roll: "2"},
		{name: "not read yet", old: map[string]string{"ConfigMap/a": "1"}, early: true},
		{name: "needed and absent", seen: sighting{sum: absentSum}},
		{name: "optional and absent", demand: optional, seen: sighting{sum: absentSum}, keep: absentSum, roll: absentSum},
		{name: "optional, still absent", demand: optional, old: map[string]string{"ConfigMap/a": absentSum},
			seen: sighting{sum: absentSum}, keep: absentSum, roll: absentSum},
		{name: "optional, appears", demand: optional, old: map[string]string{"ConfigMap/a": absentSum},
			seen: sighting{sum: "1"}, keep: absentSum, roll: "1", changed: true},
		{name: "gone", old: map[string]string{"ConfigMap/a": "1"}, seen: sighting{sum: absentSum}, keep: "1", roll: "1", gone: true},
		{name: "optional and gone", demand: optional, old: map[string]string{"ConfigMap/a": "1"}, seen: sighting{sum: absentSum},
			keep: "1", roll: "1", gone: true},
		{name: "denied", seen: sighting{denied: denied}, refused: true},
		{name: "denied after it was seen", old: map[string]string{"ConfigMap/a": "1"}, seen: sighting{denied: denied},
			keep: "1", roll: "1", refused: true},
		{name: "ignored", old: map[string]string{"ConfigMap/a": "1"}, seen: sighting{sum: "2", ignored: true}},
		{name: "not tagged", demand: demand{tagged: true}, old: map[string]string{"ConfigMap/a": "1"}, seen: sighting{sum: "2"}},
		{name: "tagged", demand: demand{tagged: true}, old: map[string]string{"ConfigMap/a": "1"},
			seen: sighting{sum: "2", tagged: true}, keep: "1", roll: "2", changed: true},
		{name: "tagged and gone", demand: demand{tagged: true}, old: map[string]string{"ConfigMap/a": "1"},
			seen: sighting{sum: absentSum}, keep: "1", roll: "1", gone: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.key == "" {
				c.key = "key"
			}
			if c.demand == (demand{}) {
				c.demand = needed
			}
			old := baseline{Key: c.key, Objects: map[string]string{"Secret/dropped": "9"}, Rolled: &roll{Generation: 3}}
			maps.Copy(old.Objects, c.old)
			v, ready := judge("key", &old, map[source.Key]demand{a: c.demand}, func(source.Key) sighting { return c.seen })
			if ready == c.early {
				t.Fatalf("ready: %t", ready)
			}
			if c.early {
				return
			}
			for what, b := range map[string]baseline{c.keep: v.keep, c.roll: v.roll} {
				want := map[string]string{}
				if what != "" {
					want["ConfigMap/a"] = what
				}
				if !maps.Equal(b.Objects, want) || b.Key != "key" || b.Rolled.Generation != 3 {
					t.Errorf("baseline %+v, want %v", b, want)
				}
			}
			got := fmt.Sprint(len(v.changed) > 0, len(v.gone) > 0, len(v.denied) > 0)
			if want := fmt.Sprint(c.changed, c.gone, c.refused); got != want {
				t.Errorf("changed, gone, denied: %s, want %s", got, want)
			}
		})
	}
}

func TestReadBaseline(t *testing.T) {
	b := baseline{Key: "k", Objects: map[string]string{"ConfigMap/a": "1"}, Rolled: &roll{Generation: 2, Time: 5}}
	value, err := b.encode()
	if err != nil {
		t.Fatal(err)
	}
	w := &workload{ours: true}
	for value, want := range map[string]bool{value: true, "": false, "{": false, `"x"`: false} {
		w.Annotations = map[string]string{AnnotationObserved: value}
		if got, ok := readBaseline(w); ok != want || ok && !got.equal(&b) {
			t.Errorf("%q: %v, %+v", value, ok, got)
		}
	}
	w.Annotations = map[string]string{AnnotationObserved: value}
	w.ours = false
	if _, ok := readBaseline(w); ok {
		t.Error("a baseline that somebody else wrote is believed")
	}
}
