package rollout

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"

	"github.com/orlop-io/orlop/configsync/source"
)

// TestWindow plays edits against a clock of its own.
func TestWindow(t *testing.T) {
	now := time.Unix(1000, 0)
	c := &Controller{config: Config{Window: 3 * time.Second}, now: func() time.Time { return now },
		pending: map[identity]*pending{}, slots: newSlots(1, func(identity) {})}
	id, byDefault := identity{deployment, "ns", "d"}, &settings{window: -1}
	look := func(after time.Duration, hash string, want time.Duration) {
		t.Helper()
		now = now.Add(after)
		if got := c.window(id, byDefault, hash); got != want {
			t.Errorf("at %s: waits for %s, want %s", now, got, want)
		}
	}
	look(0, "1", 3*time.Second)
	look(time.Second, "1", 2*time.Second) // a look at something else
	look(time.Second, "2", 3*time.Second) // another edit
	look(3*time.Second, "2", 0)
	look(time.Hour, "2", 0)
	look(0, "3", 0) // it waits for its turn, or is paused: what comes now goes with the rest
	c.drop(id)

	// An edit a second, for ever.
	look(time.Hour, "a", 3*time.Second)
	for i := range 28 {
		want := min(3*time.Second, 30*time.Second-time.Duration(i+1)*time.Second)
		look(time.Second, string(rune('b'+i)), want)
	}
	look(time.Second, "y", time.Second)
	look(time.Second, "z", 0)
	c.drop(id)

	byItself := &settings{window: 0}
	if got := c.window(id, byItself, "1"); got != 0 {
		t.Errorf("a window of nothing waits for %s", got)
	}
}

// TestPlaces: a rollout has its place from the roll until its own status says that it is over, whoever began it.
func TestPlaces(t *testing.T) {
	now := time.Unix(10000, 0)
	c := &Controller{now: func() time.Time { return now }, slots: newSlots(1, func(identity) {}), accounted: map[identity]int64{},
		queue: workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[identity]())}
	defer c.queue.ShutDown()
	id := identity{deployment, "ns", "d"}
	has := func(want bool, what string, generation int64, p progress, rolled *roll, uid types.UID) {
		t.Helper()
		b := baseline{Key: "k", Objects: map[string]string{}, Rolled: rolled}
		value, err := b.encode()
		if err != nil {
			t.Fatal(err)
		}
		w := &workload{TypeMeta: metav1.TypeMeta{Kind: string(deployment)}, ours: true, progress: p, ObjectMeta: metav1.ObjectMeta{
			Name: "d", Namespace: "ns", UID: uid, Generation: generation, Annotations: map[string]string{AnnotationObserved: value}}}
		c.account(w)
		c.settle(id, w)
		if _, got := c.slots.get(id); got != want {
			t.Errorf("%s: has a place: %t", what, got)
		}
	}
	running, complete, failed := progress{}, progress{complete: true}, progress{failed: true}
	fifth := &roll{Generation: 5, Time: now.Unix()}
	has(false, "never rolled", 1, running, nil, "u")
	has(true, "rolled by a controller before", 5, running, fifth, "u")
	has(true, "scaled meanwhile", 6, running, fifth, "u")
	has(false, "complete", 6, complete, fifth, "u")
	has(false, "rolled by somebody else", 7, running, fifth, "u")
	c.slots.hold(id, slot{"u", 9, now})
	c.accounted[id] = 9
	has(true, "just rolled, and not seen yet", 7, complete, fifth, "u")
	has(false, "does not get on", 9, failed, &roll{Generation: 9, Time: now.Unix()}, "u")
	c.slots.hold(id, slot{"u", 11, now})
	has(false, "another one of its name", 1, running, nil, "v")
	c.slots.hold(id, slot{"u", 13, now})
	now = now.Add(stuckAfter)
	has(false, "for too long", 13, running, &roll{Generation: 13, Time: now.Add(-stuckAfter).Unix()}, "u")
	delete(c.accounted, id)
	has(false, "rolled too long ago", 13, running, fifth, "u")
}

func TestListing(t *testing.T) {
	var keys []source.Key
	for _, want := range []string{
		"", "ConfigMap ns/a", "ConfigMap ns/a and Secret ns/b", "ConfigMap ns/a, Secret ns/b and ConfigMap ns/c",
	} {
		if got := listing(keys); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		keys = append(keys, []source.Key{configMap("a"), secret("b"), configMap("c"), secret("d")}[len(keys)])
	}
	keys = append(keys, keys...)
	if got := listing(keys); got != "ConfigMap ns/a, Secret ns/b, ConfigMap ns/c, Secret ns/d, ConfigMap ns/a and 3 more" {
		t.Errorf("got %q", got)
	}
}

func TestAnnouncer(t *testing.T) {
	var a announcer
	now := time.Unix(1, 0)
	for _, c := range []struct {
		after   time.Duration
		reason  string
		message string
		over    string
		want    bool
	}{
		{0, "r", "m", "", true},
		{time.Minute, "r", "m", "", false},
		{0, "r", "n", "", true},
		{0, "s", "n", "", true},
		{repeat, "r", "n", "", true},
		{0, "r", "n", "r", true},
		{0, "s", "n", "", true}, // told an age ago
		{0, "r", "n", "", false},
	} {
		now = now.Add(c.after)
		a.over("u", c.over)
		if got := a.isNews("u", c.reason, c.message, now); got != c.want {
			t.Errorf("%+v: news %t", c, got)
		}
	}
	if !a.isNews("v", "r", "n", now) {
		t.Error("news of another workload is no news")
	}
	a.forget("u")
	a.over("v", "r")
	if len(a.last) != 0 {
		t.Errorf("remembered: %v", a.last)
	}
}
