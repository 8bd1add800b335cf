package pvcontroller

import (
	"context"
	"slices"
	"strconv"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
)

func TestLatest(t *testing.T) {
	version := func(v int, phase corev1.PersistentVolumePhase) *corev1.PersistentVolume {
		return testPV("a", inPhase(phase), func(pv *corev1.PersistentVolume) { pv.ResourceVersion = strconv.Itoa(v) })
	}
	const cached, written = corev1.VolumeAvailable, corev1.VolumeBound
	for _, c := range []struct {
		name   string
		cached *corev1.PersistentVolume // nil: the informer has none
		stored []*corev1.PersistentVolume
		want   corev1.PersistentVolumePhase // "": there is none
	}{
		{"nothing was written", version(1, cached), nil, cached},
		{"the informer is behind", version(1, cached), []*corev1.PersistentVolume{version(2, written)}, written},
		{"the informer caught up", version(2, cached), []*corev1.PersistentVolume{version(2, written)}, cached},
		{"the informer is ahead", version(10, cached), []*corev1.PersistentVolume{version(9, written)}, cached},
		{"an older answer came later", version(1, cached),
			[]*corev1.PersistentVolume{version(3, written), version(2, corev1.VolumeFailed)}, written},
		{"it was deleted after the write", nil, []*corev1.PersistentVolume{version(2, written)}, ""},
		{"versions that cannot be compared", version(1, cached), []*corev1.PersistentVolume{
			testPV("a", func(pv *corev1.PersistentVolume) { pv.ResourceVersion = "x" })}, cached},
	} {
		t.Run(c.name, func(t *testing.T) {
			indexer := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{"all": func(any) ([]string, error) {
				return []string{"x"}, nil
			}})
			if c.cached != nil {
				if err := indexer.Add(c.cached); err != nil {
					t.Fatal(err)
				}
			}
			l := newLatest[*corev1.PersistentVolume](indexer)
			for _, pv := range c.stored {
				l.store(pv)
			}
			all, err := l.byIndex("all", "x")
			if err != nil {
				t.Fatal(err)
			}
			got, found, err := l.get("a")
			if err != nil {
				t.Fatal(err)
			}
			if found != (c.want != "") || len(all) > 0 != found {
				t.Fatalf("found is %t, by index %d", found, len(all))
			}
			if found && (got.Status.Phase != c.want || all[0].Status.Phase != c.want) {
				t.Errorf("phase %s, by index %s, want %s", got.Status.Phase, all[0].Status.Phase, c.want)
			}
			if c.cached == nil || got.Status.Phase == cached {
				if len(l.newer) != 0 {
					t.Error("what was written is kept although it is of no use any more")
				}
			}
		})
	}
}

func TestReservations(t *testing.T) {
	var r reservations
	a := testPV("a")
	pick := func(excluded map[string]*corev1.PersistentVolume) (*corev1.PersistentVolume, error) {
		if _, taken := excluded["a"]; taken {
			return nil, nil
		}
		return a, nil
	}
	got, release, err := r.choose("first", pick)
	if err != nil || got != a {
		t.Fatalf("choose: %v, %v", got, err)
	}
	if got, _, err := r.choose("second", pick); err != nil || got != nil {
		t.Errorf("the second claim got %v, %v", got, err)
	}
	if r.take("a", "second") {
		t.Error("the second claim took it by name")
	}
	if !r.take("a", "first") {
		t.Error("the first claim cannot take what it has")
	}
	release()
	if !r.take("a", "second") {
		t.Error("it is still reserved after its release")
	}
	r.release("a", "first")
	if r.take("a", "third") {
		t.Error("one claim released what another had")
	}
}

func TestAnnouncerTellsNews(t *testing.T) {
	a := announcer{repeatAfter: defaultRepeat}
	start := time.Unix(0, 0)
	for _, c := range []struct {
		name            string
		reason, message string
		after           time.Duration
		want            bool
	}{
		{"the first time", "Wait", "for a pod", 0, true},
		{"the same again", "Wait", "for a pod", time.Second, false},
		{"another message", "Wait", "for pod p", time.Second, true},
		{"another reason", "Fail", "for pod p", time.Second, true},
		{"the first reason, unchanged", "Wait", "for pod p", time.Minute, false},
		{"after a long time", "Wait", "for pod p", defaultRepeat + time.Minute, true},
	} {
		if got := a.isNews("u", c.reason, c.message, start.Add(c.after)); got != c.want {
			t.Errorf("%s: is news %t", c.name, got)
		}
	}
	a.forget("u")
	if !a.isNews("u", "Wait", "for pod p", start) {
		t.Error("it remembers an object that is gone")
	}
}

func TestRecyclingBeginsOnceARelease(t *testing.T) {
	var r recycling
	first, second := testPV("a", claimedBy("data", "1")), testPV("a", claimedBy("data", "2"))
	for i, c := range []struct {
		pv   *corev1.PersistentVolume
		want bool
	}{{first, true}, {first, false}, {second, true}, {second, false}} {
		if got := r.begin(c.pv); got != c.want {
			t.Errorf("%d: begin is %t", i, got)
		}
	}
	r.forget(second.UID)
	if !r.begin(second) {
		t.Error("it remembers a volume that is gone")
	}
}

func TestClaimsOfPod(t *testing.T) {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", ManagedFields: []metav1.ManagedFieldsEntry{{}}},
		Spec: corev1.PodSpec{NodeName: "n", Containers: []corev1.Container{{Name: "c"}}, Volumes: []corev1.Volume{
			{VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}},
			{Name: "tmp", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}},
			{VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		}},
	}
	trimmed, err := Transform(pod)
	if err != nil {
		t.Fatal(err)
	}
	pod = trimmed.(*corev1.Pod)
	if got, want := claimsOfPod(pod), []string{"ns/data", "ns/p-tmp"}; !slices.Equal(got, want) {
		t.Errorf("claims %v, want %v", got, want)
	}
	if pod.Spec.NodeName != "n" || len(pod.Spec.Containers) != 0 || len(pod.ManagedFields) != 0 {
		t.Errorf("the trimmed pod is %+v", pod)
	}
	for _, phase := range []corev1.PodPhase{corev1.PodSucceeded, corev1.PodFailed} {
		pod.Status.Phase = phase
		if got := claimsOfPod(pod); got != nil {
			t.Errorf("a pod that is %s uses %v", phase, got)
		}
	}
}

func TestNewNamesWhatIsMissing(t *testing.T) {
	client := fake.NewClientset()
	factory := informers.NewSharedInformerFactory(client, 0)
	for missing, config := range map[string]Config{
		"Client":    {},
		"Informers": {Client: client},
		"Recorder":  {Client: client, Informers: factory},
	} {
		if _, err := New(config); err == nil {
			t.Errorf("New without %s succeeded", missing)
		}
	}
}

// TestRunLeavesNothing runs a controller, with work in its queues, and looks for goroutines after its end.
func TestRunLeavesNothing(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	client := fake.NewClientset(testPV("a", inPhase(corev1.VolumePending)), testClaim())
	ctx, cancel := context.WithCancel(t.Context())
	factory := informers.NewSharedInformerFactory(client, 0)
	working := make(chan struct{})
	c, err := New(Config{
		Client: client, Informers: factory, Recorder: record.NewFakeRecorder(100),
		Observe: func(string, time.Duration, error) {
			select {
			case working <- struct{}{}:
			case <-ctx.Done():
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	factory.StartWithContext(ctx)
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx, 3) }()
	<-working
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	factory.Shutdown()
}

func TestClaimThatWaitsLongSaysWhyAgain(t *testing.T) {
	client := fake.NewClientset(testClaim(func(c *corev1.PersistentVolumeClaim) { c.Spec.StorageClassName = nil }))
	recorder := record.NewFakeRecorder(10)
	factory := informers.NewSharedInformerFactory(client, 0)
	c, err := New(Config{Client: client, Informers: factory, Recorder: recorder})
	if err != nil {
		t.Fatal(err)
	}
	c.announced.repeatAfter = time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	factory.StartWithContext(ctx)
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx, 1) }()
	first := <-recorder.Events
	if again := <-recorder.Events; again != first {
		t.Errorf("it says %q, and then %q", first, again)
	}
	cancel()
	for ended := false; !ended; {
		select {
		case <-recorder.Events: // It may be about to say it once more.
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
			ended = true
		}
	}
	factory.Shutdown()
}

func TestRunEndsBeforeTheCachesAreThere(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	client := fake.NewClientset()
	c, err := New(Config{
		Client: client, Informers: informers.NewSharedInformerFactory(client, 0), Recorder: record.NewFakeRecorder(1),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Run(ctx, 1); err != nil {
		t.Error(err)
	}
}
