package rollout

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/orlop-io/orlop/configsync/source"
)

// baseline says of which content a workload's pods are. It is the value of AnnotationObserved.
type baseline struct {
	// Key tells under which key the hashes were made. Those of another key say nothing.
	Key string `json:"key"`
	// Objects has a hash for each object, by kind and name.
	Objects map[string]string `json:"objects"`
	// Rolled is the last roll, if there was one.
	Rolled *roll `json:"rolled,omitempty"`
}

// roll is what the controller noted of a roll, to know after a restart which rollouts are its own.
type roll struct {
	// Generation is the workload's, which the roll made.
	Generation int64 `json:"generation"`
	// Time is when, in seconds since 1970.
	Time int64 `json:"time"`
}

func (r *roll) at() time.Time { return time.Unix(r.Time, 0) }

// readBaseline returns the workload's baseline, and false where there is none that means anything.
func readBaseline(w *workload) (baseline, bool) {
	value, ok := w.Annotations[AnnotationObserved]
	var b baseline
	if !ok || !w.ours || json.Unmarshal([]byte(value), &b) != nil {
		return baseline{}, false
	}
	return b, true
}

func (b *baseline) encode() (string, error) {
	out, err := json.Marshal(b)
	return string(out), err
}

func (b *baseline) equal(other *baseline) bool {
	return b.Key == other.Key && maps.Equal(b.Objects, other.Objects)
}

func entryOf(key source.Key) string { return string(key.Kind) + "/" + key.Name }

// sighting is what is known of an object that a workload follows.
type sighting struct {
	// sum is the hash of its content, empty where it has not been read; absentSum where it is not there.
	sum string
	// ignored and tagged: its own annotations say so.
	ignored, tagged bool
	// denied says why the controller may not read it.
	denied error
}

// verdict is what follows from a baseline and what is there.
type verdict struct {
	// keep is the baseline without a roll: objects that are new to it are noted, others dropped. roll is the one with it.
	keep, roll baseline
	// changed are the objects for which to roll, gone those that were deleted, denied those that cannot be read.
	changed, gone, denied []source.Key
}

// judge compares. It returns false where objects have not been read yet, and it is too early to say anything. It is pure.
//
// An object that the pods need and that was never there has no place in the baseline: pods wait for it and start with what
// it then holds. One they do not need has: when it appears, they are rolled. One that disappears stays as it was, for new
// pods would only wait for it, or lose what they have.
func judge(keyID string, old *baseline, wanted map[source.Key]demand, look func(source.Key) sighting) (verdict, bool) {
	v := verdict{
		keep: baseline{Key: keyID, Objects: map[string]string{}, Rolled: old.Rolled},
		roll: baseline{Key: keyID, Objects: map[string]string{}, Rolled: old.Rolled},
	}
	known := old.Objects
	if old.Key != keyID {
		known = nil
	}
	note := func(name, keep, roll string) { v.keep.Objects[name], v.roll.Objects[name] = keep, roll }
	for _, key := range slices.SortedFunc(maps.Keys(wanted), compareKeys) {
		d, s, name := wanted[key], look(key), entryOf(key)
		before, recorded := known[name]
		switch {
		case s.denied != nil:
			v.denied = append(v.denied, key)
			if recorded {
				note(name, before, before)
			}
		case s.sum == "":
			return verdict{}, false
		case s.ignored, d.tagged && !s.tagged && s.sum != absentSum:
		case s.sum == absentSum && recorded && before != absentSum:
			v.gone = append(v.gone, key)
			note(name, before, before)
		case !recorded:
			if s.sum != absentSum || d.optional {
				note(name, s.sum, s.sum)
			}
		default:
			note(name, before, s.sum)
			if before != s.sum {
				v.changed = append(v.changed, key)
			}
		}
	}
	return v, true
}

func compareKeys(a, b source.Key) int {
	return strings.Compare(entryOf(a), entryOf(b))
}
