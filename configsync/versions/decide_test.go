package versions

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestDecide(t *testing.T) {
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	at := func(ago time.Duration) string { return now.Add(-ago).Format(time.RFC3339) }
	const hour = time.Hour
	for name, c := range map[string]struct {
		annotations map[string]string
		change      func(*metav1.ObjectMeta)
		used        bool
		want        verdict
		problem     string
	}{
		"a new one that nothing refers to yet":   {want: verdict{action: mark, grace: hour}},
		"used":                                   {used: true},
		"used again":                             {used: true, annotations: map[string]string{AnnotationSince: at(5 * hour)}, want: verdict{action: unmark}},
		"unused for a while":                     {annotations: map[string]string{AnnotationSince: at(hour / 4)}, want: verdict{action: wait, wait: hour * 3 / 4}},
		"unused for just the time":               {annotations: map[string]string{AnnotationSince: at(hour)}, want: verdict{action: collect, grace: hour}},
		"unused for long, over many restarts":    {annotations: map[string]string{AnnotationSince: at(999 * hour)}, want: verdict{action: collect, grace: hour}},
		"a time that is none":                    {annotations: map[string]string{AnnotationSince: "yesterday"}, want: verdict{action: mark, grace: hour}},
		"a time that is empty":                   {annotations: map[string]string{AnnotationSince: ""}, want: verdict{action: mark, grace: hour}},
		"a time to come, by another clock":       {annotations: map[string]string{AnnotationSince: at(-hour)}, want: verdict{action: mark, grace: hour}},
		"a time of its own, longer":              {annotations: map[string]string{AnnotationSince: at(hour), AnnotationAfter: "2h"}, want: verdict{action: wait, wait: hour}},
		"a time of its own, shorter":             {annotations: map[string]string{AnnotationSince: at(hour / 60), AnnotationAfter: "30s"}, want: verdict{action: collect, grace: hour / 120}},
		"at once":                                {annotations: map[string]string{AnnotationSince: at(0), AnnotationAfter: "0s"}, want: verdict{action: collect}},
		"a time of its own that nobody can read": {annotations: map[string]string{AnnotationSince: at(9 * hour), AnnotationAfter: "a day"}, problem: `"a day"`},
		"a time of its own without a unit":       {annotations: map[string]string{AnnotationSince: at(9 * hour), AnnotationAfter: "60"}, problem: `"60"`},
		"a negative time of its own":             {annotations: map[string]string{AnnotationSince: at(9 * hour), AnnotationAfter: "-1h"}, problem: `"-1h"`},
		"an annotation copied from an older object": {
			annotations: map[string]string{AnnotationSince: at(9 * hour)},
			change:      func(o *metav1.ObjectMeta) { o.CreationTimestamp = metav1.NewTime(now.Add(-hour / 2)) },
			want:        verdict{action: wait, wait: hour / 2},
		},
		"another value of the label": {
			annotations: map[string]string{AnnotationSince: at(9 * hour)},
			change:      func(o *metav1.ObjectMeta) { o.Labels[LabelCollect] = "never" },
		},
		"no label": {
			annotations: map[string]string{AnnotationSince: at(9 * hour)},
			change:      func(o *metav1.ObjectMeta) { o.Labels = nil },
		},
		"deleted, and held by a finalizer": {
			annotations: map[string]string{AnnotationSince: at(9 * hour)},
			change:      func(o *metav1.ObjectMeta) { o.DeletionTimestamp = &metav1.Time{Time: now} },
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := &metav1.ObjectMeta{
				Labels: map[string]string{LabelCollect: CollectUnused}, Annotations: c.annotations,
				CreationTimestamp: metav1.NewTime(now.Add(-1000 * hour)),
			}
			if c.change != nil {
				c.change(o)
			}
			got := decide(o, c.used, hour, now)
			if c.problem != "" {
				if !strings.Contains(got.problem, c.problem) || !strings.Contains(got.problem, AnnotationAfter) {
					t.Errorf("the problem is %q, want one that says %s", got.problem, c.problem)
				}
				got.problem = ""
			}
			if got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestBareDropsWhatKubectlKept(t *testing.T) {
	full := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{
		Name: "n", Namespace: "ns", UID: "u", ResourceVersion: "7",
		Labels: map[string]string{LabelCollect: CollectUnused, "app": "web"},
		Annotations: map[string]string{
			"kubectl.kubernetes.io/last-applied-configuration": `{"data":{"password":"aHVudGVyMg=="}}`, AnnotationAfter: "1h",
		},
		ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "kubectl"}},
	}}
	for range 2 { // a transform may be given what it made
		kept, err := bare(full)
		if err != nil {
			t.Fatal(err)
		}
		o := kept.(*metav1.PartialObjectMetadata)
		if len(o.Annotations) != 1 || o.Annotations[AnnotationAfter] != "1h" || len(o.Labels) != 1 || o.ManagedFields != nil {
			t.Errorf("kept %+v", o.ObjectMeta)
		}
		if o.Name != "n" || o.Namespace != "ns" || o.UID != "u" || o.ResourceVersion != "7" {
			t.Errorf("the object is %+v", o.ObjectMeta)
		}
		full = o
	}
}

func TestNewRefuses(t *testing.T) {
	if _, err := New(Config{}); err == nil || !strings.Contains(err.Error(), "Client") {
		t.Errorf("without a client: %v", err)
	}
}
