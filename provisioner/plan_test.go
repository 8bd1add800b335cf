package provisioner

import (
	"errors"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

const testDriver = "local.csi.example.com"

var testSegments = map[string]string{"topology.example.com/node": "n1"}

func testClaim(change func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
	claim := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "data", UID: "7f3c"},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes:      []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			StorageClassName: ptr.To("fast"),
			Resources: corev1.VolumeResourceRequirements{
				Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")},
			},
		},
	}
	if change != nil {
		change(claim)
	}
	return claim
}

func testClass(change func(*storagev1.StorageClass)) *storagev1.StorageClass {
	class := &storagev1.StorageClass{
		ObjectMeta:  metav1.ObjectMeta{Name: "fast"},
		Provisioner: testDriver,
		Parameters:  map[string]string{"backend": "loop", "csi.storage.k8s.io/fstype": "ext4"},
	}
	if change != nil {
		change(class)
	}
	return class
}

func TestNewPlan(t *testing.T) {
	got, err := NewPlan(PlanInput{
		Claim: testClaim(func(c *corev1.PersistentVolumeClaim) {
			c.Spec.Resources.Limits = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("2Gi")}
		}),
		Class: testClass(func(c *storagev1.StorageClass) {
			c.MountOptions = []string{"noatime"}
			c.ReclaimPolicy = ptr.To(corev1.PersistentVolumeReclaimRetain)
		}),
		Topology: testSegments,
	})
	if err != nil {
		t.Fatal(err)
	}
	topology := []*csi.Topology{{Segments: testSegments}}
	want := &Plan{
		ClaimNamespace: "shop", ClaimName: "data", ClaimUID: "7f3c", ClassName: "fast", FSType: "ext4",
		VolumeMode:    corev1.PersistentVolumeFilesystem,
		AccessModes:   []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		MountOptions:  []string{"noatime"},
		ReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
		Request: &csi.CreateVolumeRequest{
			Name:          "pvc-7f3c",
			CapacityRange: &csi.CapacityRange{RequiredBytes: 1 << 30, LimitBytes: 2 << 30},
			VolumeCapabilities: []*csi.VolumeCapability{{
				AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{
					FsType: "ext4", MountFlags: []string{"noatime"},
				}},
				AccessMode: &csi.VolumeCapability_AccessMode{
					Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER,
				},
			}},
			Parameters: map[string]string{
				"backend":                          "loop",
				"csi.storage.k8s.io/pvc/name":      "data",
				"csi.storage.k8s.io/pvc/namespace": "shop",
				"csi.storage.k8s.io/pv/name":       "pvc-7f3c",
			},
			AccessibilityRequirements: &csi.TopologyRequirement{Requisite: topology, Preferred: topology},
		},
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("plan (-want +got):\n%s", diff)
	}
}

func TestNewPlanBlockHasNoFilesystem(t *testing.T) {
	plan, err := NewPlan(PlanInput{
		Claim: testClaim(func(c *corev1.PersistentVolumeClaim) {
			c.Spec.VolumeMode = ptr.To(corev1.PersistentVolumeBlock)
		}),
		Class: testClass(func(c *storagev1.StorageClass) { c.MountOptions = []string{"noatime"} }),
	})
	if err != nil {
		t.Fatal(err)
	}
	if plan.Request.VolumeCapabilities[0].GetBlock() == nil || plan.FSType != "" || plan.MountOptions != nil {
		t.Errorf("plan of a block volume: %+v", plan)
	}
	if plan.Request.AccessibilityRequirements != nil {
		t.Errorf("a driver without topology was asked for %v", plan.Request.AccessibilityRequirements)
	}
}

func TestNewPlanRefuses(t *testing.T) {
	type claim = corev1.PersistentVolumeClaim
	type class = storagev1.StorageClass
	size := func(request string) func(*claim) {
		return func(c *claim) {
			c.Spec.Resources.Requests[corev1.ResourceStorage] = resource.MustParse(request)
		}
	}
	parameter := func(key string) func(*class) {
		return func(c *class) { c.Parameters[key] = "x" }
	}
	for name, tt := range map[string]struct {
		claim        func(*claim)
		class        func(*class)
		field, words string
	}{
		"selector": {
			claim: func(c *claim) { c.Spec.Selector = &metav1.LabelSelector{} },
			field: "spec.selector", words: "existing PersistentVolume",
		},
		"data source": {
			claim: func(c *claim) {
				c.Spec.DataSource = &corev1.TypedLocalObjectReference{Kind: "VolumeSnapshot", Name: "monday"}
			},
			field: "spec.dataSource", words: `VolumeSnapshot "monday"`,
		},
		"data source reference": {
			claim: func(c *claim) {
				c.Spec.DataSourceRef = &corev1.TypedObjectReference{Kind: "Populator", Name: "p"}
			},
			field: "spec.dataSourceRef", words: `Populator "p"`,
		},
		"attributes class": {
			claim: func(c *claim) { c.Spec.VolumeAttributesClassName = ptr.To("gold") },
			field: "spec.volumeAttributesClassName", words: "gold",
		},
		"no size": {
			claim: func(c *claim) { c.Spec.Resources.Requests = nil },
			field: "spec.resources.requests.storage", words: "above zero",
		},
		"zero size": {claim: size("0"), field: "spec.resources.requests.storage", words: "above zero"},
		"absurd size": {
			claim: size("16Ei"), field: "spec.resources.requests.storage", words: "must be below 8Ei",
		},
		"limit below request": {
			claim: func(c *claim) {
				c.Spec.Resources.Limits = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Mi")}
			},
			field: "spec.resources.limits.storage", words: "1Mi is below the request 1Gi",
		},
		"no access mode": {
			claim: func(c *claim) { c.Spec.AccessModes = nil }, field: "spec.accessModes", words: "at least one",
		},
		"unknown access mode": {
			claim: func(c *claim) { c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{"WriteNever"} },
			field: "spec.accessModes", words: "WriteNever",
		},
		"one pod and many": {
			claim: func(c *claim) {
				c.Spec.AccessModes = append(c.Spec.AccessModes, corev1.ReadWriteOncePod)
			},
			field: "spec.accessModes", words: "combined",
		},
		"unknown volume mode": {
			claim: func(c *claim) { c.Spec.VolumeMode = ptr.To(corev1.PersistentVolumeMode("Tape")) },
			field: "spec.volumeMode", words: "Tape",
		},
		"secret": {
			class: parameter("csi.storage.k8s.io/provisioner-secret-name"),
			field: "parameters[csi.storage.k8s.io/provisioner-secret-name]", words: "not supported yet",
		},
		"unknown reserved parameter": {
			class: parameter("csi.storage.k8s.io/fs-type"),
			field: "parameters[csi.storage.k8s.io/fs-type]", words: "allowed is csi.storage.k8s.io/fstype",
		},
		"disallowed topology": {
			class: func(c *class) {
				c.AllowedTopologies = []corev1.TopologySelectorTerm{{
					MatchLabelExpressions: []corev1.TopologySelectorLabelRequirement{
						{Key: "topology.example.com/node", Values: []string{"n2"}},
					},
				}}
			},
			field: "allowedTopologies", words: "topology.example.com/node=n1",
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := NewPlan(PlanInput{Claim: testClaim(tt.claim), Class: testClass(tt.class), Topology: testSegments})
			var refusal *Refusal
			if !errors.As(err, &refusal) {
				t.Fatalf("NewPlan error = %v, want a refusal", err)
			}
			if refusal.Field != tt.field || !strings.Contains(refusal.Message, tt.words) {
				t.Errorf("refusal %q, want field %s and the words %q", refusal, tt.field, tt.words)
			}
		})
	}
}

func TestSizes(t *testing.T) {
	for in, want := range map[string]int64{
		"1":                   1,
		"100m":                1,
		"1500m":               2,
		"1Ki":                 1 << 10,
		"9223372036854775806": 1<<63 - 2,
	} {
		claim := testClaim(func(c *corev1.PersistentVolumeClaim) {
			c.Spec.Resources.Requests[corev1.ResourceStorage] = resource.MustParse(in)
		})
		got, r := capacityRange(claim)
		if r != nil || got.RequiredBytes != want || got.LimitBytes != 0 {
			t.Errorf("%s: %v, %v; want %d bytes and no limit", in, got, r, want)
		}
	}
}

func TestAccessModes(t *testing.T) {
	const (
		writer = csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER
		single = csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER
		multi  = csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER
		reader = csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY
		many   = csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER
	)
	type modes = []csi.VolumeCapability_AccessMode_Mode
	for _, tt := range []struct {
		in    []corev1.PersistentVolumeAccessMode
		multi bool
		want  modes
	}{
		{[]corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, false, modes{writer}},
		{[]corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, true, modes{multi}},
		{[]corev1.PersistentVolumeAccessMode{corev1.ReadWriteOncePod}, false, modes{writer}},
		{[]corev1.PersistentVolumeAccessMode{corev1.ReadWriteOncePod}, true, modes{single}},
		{[]corev1.PersistentVolumeAccessMode{corev1.ReadOnlyMany, corev1.ReadWriteMany}, true, modes{reader, many}},
		{[]corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce, corev1.ReadWriteOnce}, false, modes{writer}},
	} {
		caps, r := volumeCapabilities(&Plan{AccessModes: tt.in, VolumeMode: corev1.PersistentVolumeFilesystem}, tt.multi)
		if r != nil {
			t.Errorf("%v: %v", tt.in, r)
			continue
		}
		var got modes
		for _, c := range caps {
			got = append(got, c.AccessMode.Mode)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%v with SINGLE_NODE_MULTI_WRITER %v (-want +got):\n%s", tt.in, tt.multi, diff)
		}
	}
}
