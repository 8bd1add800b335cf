package provisioner

import (
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func testPlan(t *testing.T) *Plan {
	t.Helper()
	plan, err := NewPlan(PlanInput{Claim: testClaim(nil), Class: testClass(nil), Topology: testSegments})
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

func testVolume() *csi.Volume {
	return &csi.Volume{
		VolumeId: "v-1", CapacityBytes: 1 << 30, VolumeContext: map[string]string{"backend": "loop"},
		AccessibleTopology: []*csi.Topology{{Segments: testSegments}},
	}
}

func TestPersistentVolume(t *testing.T) {
	got := persistentVolume(testPlan(t), testVolume(), testDriver, "me")
	want := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{
			Name:        "pvc-7f3c",
			Annotations: map[string]string{"pv.kubernetes.io/provisioned-by": testDriver},
			Finalizers:  []string{"external-provisioner.volume.kubernetes.io/finalizer"},
		},
		Spec: corev1.PersistentVolumeSpec{
			Capacity:                      corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")},
			AccessModes:                   []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimDelete,
			StorageClassName:              "fast",
			VolumeMode:                    ptr.To(corev1.PersistentVolumeFilesystem),
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{
				NodeSelectorTerms: []corev1.NodeSelectorTerm{{
					MatchExpressions: []corev1.NodeSelectorRequirement{{
						Key: "topology.example.com/node", Operator: corev1.NodeSelectorOpIn, Values: []string{"n1"},
					}},
				}},
			}},
			ClaimRef: &corev1.ObjectReference{
				APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: "shop", Name: "data", UID: "7f3c",
			},
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{
				Driver: testDriver, VolumeHandle: "v-1", FSType: "ext4",
				VolumeAttributes: map[string]string{
					"backend": "loop", "storage.kubernetes.io/csiProvisionerIdentity": "me",
				},
			}},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("PersistentVolume (-want +got):\n%s", diff)
	}
	if !isLocal(got, testSegments) || isLocal(got, map[string]string{"topology.example.com/node": "n2"}) {
		t.Error("the volume is not local to its own node alone")
	}
}

func TestPersistentVolumeSaysThatItsSizeIsNotEnforced(t *testing.T) {
	volume := testVolume()
	volume.VolumeContext["orlop.io/capacity-enforcement"] = "none"
	got := persistentVolume(testPlan(t), volume, testDriver, "me").Annotations["orlop.io/capacity-enforcement"]
	if got != "none" {
		t.Errorf("annotation %q", got)
	}
}

func TestPersistentVolumeRetainHasNoFinalizer(t *testing.T) {
	plan := testPlan(t)
	plan.ReclaimPolicy = corev1.PersistentVolumeReclaimRetain
	if got := persistentVolume(plan, testVolume(), testDriver, "me").Finalizers; got != nil {
		t.Errorf("finalizers %v", got)
	}
}

func TestPersistentVolumeOfUnknownSizeHasTheRequested(t *testing.T) {
	volume := testVolume()
	volume.CapacityBytes = 0
	got := persistentVolume(testPlan(t), volume, testDriver, "me").Spec.Capacity[corev1.ResourceStorage]
	if got.Value() != 1<<30 {
		t.Errorf("capacity %s", got.String())
	}
}

func TestCheckVolume(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*csi.Volume)
		want   string
	}{
		"good":         {func(*csi.Volume) {}, ""},
		"unknown size": {func(v *csi.Volume) { v.CapacityBytes = 0 }, ""},
		"too small":    {func(v *csi.Volume) { v.CapacityBytes-- }, "fewer than the 1073741824 requested"},
		"no topology":  {func(v *csi.Volume) { v.AccessibleTopology = nil }, "from where"},
		"empty topology": {
			func(v *csi.Volume) { v.AccessibleTopology = []*csi.Topology{{}} }, "from where",
		},
	} {
		t.Run(name, func(t *testing.T) {
			volume := testVolume()
			tt.change(volume)
			err := checkVolume(testPlan(t), volume)
			if (err == nil) != (tt.want == "") || (err != nil && !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

func TestReclaim(t *testing.T) {
	now := metav1.Now()
	type pv = corev1.PersistentVolume
	for name, tt := range map[string]struct {
		change func(*pv)
		want   reclaimAction
	}{
		"bound":               {func(*pv) {}, keep},
		"released":            {func(v *pv) { v.Status.Phase = corev1.VolumeReleased }, remove},
		"released, unguarded": {func(v *pv) { v.Status.Phase, v.Finalizers = corev1.VolumeReleased, nil }, remove},
		"bound, unguarded":    {func(v *pv) { v.Finalizers = nil }, guard},
		"bound, deleting":     {func(v *pv) { v.DeletionTimestamp = &now }, keep},
		"failed":              {func(v *pv) { v.Status.Phase = corev1.VolumeFailed }, keep},
		"available, no claim": {func(v *pv) { v.Status.Phase, v.Spec.ClaimRef = corev1.VolumeAvailable, nil }, keep},
		"pending, deleting":   {func(v *pv) { v.Status.Phase, v.DeletionTimestamp = corev1.VolumePending, &now }, keep},
		"released, deleted":   {func(v *pv) { v.Status.Phase, v.DeletionTimestamp = corev1.VolumeReleased, &now }, remove},
		"retained, released":  {func(v *pv) { retain(v, corev1.VolumeReleased) }, keep},
		"retained, deleting":  {func(v *pv) { retain(v, corev1.VolumeReleased); v.DeletionTimestamp = &now }, release},
		"retained, in use":    {func(v *pv) { retain(v, corev1.VolumeBound); v.DeletionTimestamp = &now }, keep},
		"retained, no guard":  {func(v *pv) { retain(v, corev1.VolumeReleased); v.Finalizers = nil }, keep},
		"finalizer taken away": {
			func(v *pv) {
				v.Status.Phase, v.DeletionTimestamp, v.Finalizers = corev1.VolumeReleased, &now, []string{"other"}
			}, keep,
		},
		"available, deleting": {
			func(v *pv) {
				v.Status.Phase, v.DeletionTimestamp, v.Spec.ClaimRef = corev1.VolumeAvailable, &now, nil
			}, remove,
		},
	} {
		t.Run(name, func(t *testing.T) {
			v := persistentVolume(testPlan(t), testVolume(), testDriver, "me")
			v.Status.Phase = corev1.VolumeBound
			tt.change(v)
			if got := reclaim(v); got != tt.want {
				t.Errorf("reclaim = %v, want %v", got, tt.want)
			}
		})
	}
}

func retain(v *corev1.PersistentVolume, phase corev1.PersistentVolumePhase) {
	v.Spec.PersistentVolumeReclaimPolicy, v.Status.Phase = corev1.PersistentVolumeReclaimRetain, phase
}
