package pvcontroller

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const testClass = "gold"

type pvs = []*corev1.PersistentVolume

// testPV is an available volume of testClass; testClaim is a claim of that class with UID "u" that no volume is bound
// to yet. Both are of 1Gi unless edited.
func testPV(name string, edit ...func(*corev1.PersistentVolume)) *corev1.PersistentVolume {
	pv := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("uid-" + name)},
		Spec: corev1.PersistentVolumeSpec{
			Capacity:                      corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")},
			AccessModes:                   []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
			StorageClassName:              testClass,
		},
		Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeAvailable},
	}
	for _, e := range edit {
		e(pv)
	}
	return pv
}

func testClaim(edit ...func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
	class := testClass
	claim := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: "data", Namespace: "ns", UID: "u"},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes:      []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			StorageClassName: &class,
			Resources: corev1.VolumeResourceRequirements{
				Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")},
			},
		},
		Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending},
	}
	for _, e := range edit {
		e(claim)
	}
	return claim
}

func size(s string) func(*corev1.PersistentVolume) {
	return func(pv *corev1.PersistentVolume) { pv.Spec.Capacity[corev1.ResourceStorage] = resource.MustParse(s) }
}

func asks(s string) func(*corev1.PersistentVolumeClaim) {
	return func(c *corev1.PersistentVolumeClaim) {
		c.Spec.Resources.Requests[corev1.ResourceStorage] = resource.MustParse(s)
	}
}

func modes(m ...corev1.PersistentVolumeAccessMode) func(*corev1.PersistentVolume) {
	return func(pv *corev1.PersistentVolume) { pv.Spec.AccessModes = m }
}

func asksModes(m ...corev1.PersistentVolumeAccessMode) func(*corev1.PersistentVolumeClaim) {
	return func(c *corev1.PersistentVolumeClaim) { c.Spec.AccessModes = m }
}

func claimedBy(name string, uid types.UID) func(*corev1.PersistentVolume) {
	return func(pv *corev1.PersistentVolume) {
		pv.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "ns", Name: name, UID: uid}
	}
}

func inPhase(phase corev1.PersistentVolumePhase) func(*corev1.PersistentVolume) {
	return func(pv *corev1.PersistentVolume) { pv.Status.Phase = phase }
}

func pvClass(name string) func(*corev1.PersistentVolume) {
	return func(pv *corev1.PersistentVolume) { pv.Spec.StorageClassName = name }
}

func pvLabel(key, value string) func(*corev1.PersistentVolume) {
	return func(pv *corev1.PersistentVolume) { pv.Labels = map[string]string{key: value} }
}

func pvAnnotation(key, value string) func(*corev1.PersistentVolume) {
	return func(pv *corev1.PersistentVolume) { metav1.SetMetaDataAnnotation(&pv.ObjectMeta, key, value) }
}

func pvBeingDeleted(pv *corev1.PersistentVolume) { pv.DeletionTimestamp = &metav1.Time{} }

func pvBlock(pv *corev1.PersistentVolume) {
	block := corev1.PersistentVolumeBlock
	pv.Spec.VolumeMode = &block
}

func pvAttributes(class string) func(*corev1.PersistentVolume) {
	return func(pv *corev1.PersistentVolume) { pv.Spec.VolumeAttributesClassName = &class }
}

func asksAttributes(class string) func(*corev1.PersistentVolumeClaim) {
	return func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeAttributesClassName = &class }
}

func asksLabel(key, value string) func(*corev1.PersistentVolumeClaim) {
	return func(c *corev1.PersistentVolumeClaim) {
		c.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{key: value}}
	}
}

func annotated(key, value string) func(*corev1.PersistentVolumeClaim) {
	return func(c *corev1.PersistentVolumeClaim) { metav1.SetMetaDataAnnotation(&c.ObjectMeta, key, value) }
}

func beingDeleted(c *corev1.PersistentVolumeClaim) { c.DeletionTimestamp = &metav1.Time{} }

func names(volume string) func(*corev1.PersistentVolumeClaim) {
	return func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeName = volume }
}

func TestMatch(t *testing.T) {
	const rwo, rox, rwx = corev1.ReadWriteOnce, corev1.ReadOnlyMany, corev1.ReadWriteMany
	for _, c := range []struct {
		name    string
		claim   *corev1.PersistentVolumeClaim
		volumes pvs
		delayed bool
		taken   string // a volume that another worker is binding
		want    string
	}{
		{name: "no volumes", claim: testClaim()},
		{name: "the smallest that is large enough", claim: testClaim(asks("200Mi")), want: "1gi", volumes: pvs{
			testPV("3gi", size("3Gi")), testPV("10m", size("10M")), testPV("1gi", size("1Gi"))}},
		{name: "a size that is met exactly", claim: testClaim(), want: "a", volumes: pvs{testPV("a")}},
		{name: "all are too small", claim: testClaim(asks("2Gi")), volumes: pvs{testPV("a")}},
		{name: "another class", claim: testClaim(), volumes: pvs{testPV("a", pvClass("iron"))}},
		{name: "the class is in the beta annotation of the volume", claim: testClaim(), want: "a", volumes: pvs{
			testPV("a", pvClass("iron"), pvAnnotation(corev1.BetaStorageClassAnnotation, testClass))}},
		{name: "the class is in the beta annotation of the claim",
			claim: testClaim(annotated(corev1.BetaStorageClassAnnotation, "iron")), want: "b", volumes: pvs{
				testPV("a"), testPV("b", pvClass("iron"))}},
		{name: "a claim without a class takes a volume without one",
			claim: testClaim(func(c *corev1.PersistentVolumeClaim) { c.Spec.StorageClassName = nil }), want: "b",
			volumes: pvs{testPV("a"), testPV("b", pvClass(""))}},
		{name: "the selector", claim: testClaim(asksLabel("disk", "ssd")), want: "b", volumes: pvs{
			testPV("a", pvLabel("disk", "hdd")), testPV("b", pvLabel("disk", "ssd")), testPV("c")}},
		{name: "all access modes are needed", claim: testClaim(asksModes(rwo, rwx)), want: "b", volumes: pvs{
			testPV("a", modes(rwo)), testPV("b", modes(rwo, rox, rwx))}},
		{name: "a larger volume with fewer modes before a smaller one with more", claim: testClaim(), want: "b",
			volumes: pvs{testPV("a", modes(rwo, rwx)), testPV("b", modes(rwo), size("9Gi"))}},
		{name: "another volume mode", claim: testClaim(), volumes: pvs{testPV("a", pvBlock)}},
		{name: "the same attributes class", claim: testClaim(asksAttributes("fast")), want: "b", volumes: pvs{
			testPV("a"), testPV("b", pvAttributes("fast"))}},
		{name: "an attributes class nobody asked for", claim: testClaim(), volumes: pvs{
			testPV("a", pvAttributes("fast"))}},
		{name: "one is being deleted", claim: testClaim(), volumes: pvs{testPV("a", pvBeingDeleted)}},
		{name: "one is not available yet", claim: testClaim(), volumes: pvs{
			testPV("a", inPhase(corev1.VolumePending))}},
		{name: "one was released and holds old data", claim: testClaim(), volumes: pvs{
			testPV("a", claimedBy("data", "old"), inPhase(corev1.VolumeReleased))}},
		{name: "one is another claim's", claim: testClaim(), volumes: pvs{
			testPV("a", claimedBy("other", "o"))}},
		{name: "one is reserved for another claim", claim: testClaim(), volumes: pvs{
			testPV("a", claimedBy("other", ""))}},
		{name: "one is being bound by another worker", claim: testClaim(), taken: "a", want: "b",
			volumes: pvs{testPV("a"), testPV("b", size("2Gi"))}},
		{name: "the reserved one before a smaller one", claim: testClaim(), want: "b", volumes: pvs{
			testPV("a"), testPV("b", size("9Gi"), claimedBy("data", ""))}},
		{name: "the reserved one before one with fewer modes", claim: testClaim(), want: "b", volumes: pvs{
			testPV("a"), testPV("b", modes(rwo, rwx), claimedBy("data", ""))}},
		{name: "the reserved one although class and selector differ", claim: testClaim(asksLabel("disk", "ssd")), want: "a",
			volumes: pvs{testPV("a", pvClass("iron"), claimedBy("data", ""))}},
		{name: "the one that has the claim's UID before one that has only its name", claim: testClaim(), want: "b",
			volumes: pvs{testPV("a", claimedBy("data", "")), testPV("b", claimedBy("data", "u"))}},
		{name: "the reserved one is too small: another", claim: testClaim(), want: "b", volumes: pvs{
			testPV("a", size("1Mi"), claimedBy("data", "")), testPV("b")}},
		{name: "binding is delayed: an available volume is the scheduler's to choose", claim: testClaim(), delayed: true,
			volumes: pvs{testPV("a")}},
		{name: "binding is delayed: the scheduler has chosen", claim: testClaim(), delayed: true, want: "b",
			volumes: pvs{testPV("a"), testPV("b", claimedBy("data", "u"))}},
		{name: "a bind was cut short after its second write", claim: testClaim(), want: "a", volumes: pvs{
			testPV("a", claimedBy("data", "u"), inPhase(corev1.VolumeBound)), testPV("b", size("10Gi"))}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := match(c.claim, c.volumes, map[string]*corev1.PersistentVolume{c.taken: nil}, c.delayed)
			if err != nil {
				t.Fatal(err)
			}
			name := ""
			if got != nil {
				name = got.Name
			}
			if name != c.want {
				t.Errorf("match is %q, want %q", name, c.want)
			}
		})
	}
}

func TestMatchRefusesAnInvalidSelector(t *testing.T) {
	claim := testClaim(func(c *corev1.PersistentVolumeClaim) {
		c.Spec.Selector = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a", Operator: "?"}}}
	})
	if pv, err := match(claim, []*corev1.PersistentVolume{testPV("a")}, nil, false); err == nil {
		t.Errorf("match is %v", pv)
	}
	if err := suits(testPV("a"), claim); err == nil {
		t.Error("a volume suits an invalid selector")
	}
}

// TestSuits checks that the reason names what differs, on both sides.
func TestSuits(t *testing.T) {
	for _, c := range []struct {
		name  string
		pv    *corev1.PersistentVolume
		claim *corev1.PersistentVolumeClaim
		says  []string // nil: it suits
	}{
		{"it does", testPV("a"), testClaim(), nil},
		{"it does, with room to spare", testPV("a", size("2Gi")), testClaim(asks("1500Mi")), nil},
		{"size", testPV("a"), testClaim(asks("2Gi")), []string{"1Gi", "2Gi"}},
		{"class", testPV("a", pvClass("iron")), testClaim(), []string{"iron", testClass}},
		{"volume mode", testPV("a", pvBlock), testClaim(), []string{"Block", "Filesystem"}},
		{"access modes", testPV("a"), testClaim(asksModes(corev1.ReadWriteMany)), []string{"ReadWriteOnce", "ReadWriteMany"}},
		{"attributes class", testPV("a", pvAttributes("fast")), testClaim(asksAttributes("slow")), []string{"fast", "slow"}},
		{"labels", testPV("a"), testClaim(asksLabel("disk", "ssd")), []string{"disk=ssd"}},
		{"it goes", testPV("a", pvBeingDeleted), testClaim(), []string{"being deleted"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := suits(c.pv, c.claim)
			if (err == nil) != (c.says == nil) {
				t.Fatalf("error %v", err)
			}
			for _, part := range c.says {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q does not say %q", err, part)
				}
			}
		})
	}
}
