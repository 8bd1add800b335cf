package pvcontroller

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func testStorageClass(provisioner string, mode storagev1.VolumeBindingMode) *storagev1.StorageClass {
	return &storagev1.StorageClass{
		ObjectMeta: metav1.ObjectMeta{Name: testClass}, Provisioner: provisioner, VolumeBindingMode: &mode,
	}
}

func TestDecideNamed(t *testing.T) {
	for _, c := range []struct {
		name   string
		claim  *corev1.PersistentVolumeClaim
		pv     *corev1.PersistentVolume
		action claimAction
		reason string
	}{
		{"the volume does not exist", testClaim(names("a")), nil, actPending, reasonFailedBinding},
		{"the volume is free", testClaim(names("a")), testPV("a"), actBind, ""},
		{"the volume is free and the claim is going", testClaim(names("a"), beingDeleted), testPV("a"), actNothing, ""},
		{"the claim is going in the middle of a bind", testClaim(names("a"), beingDeleted), testPV("a", claimedBy("data", "u")),
			actBind, ""},
		{"the volume is free and too small", testClaim(names("a"), asks("2Gi")), testPV("a"), actPending,
			reasonVolumeMismatch},
		{"the volume is free and of another class", testClaim(names("a")), testPV("a", pvClass("iron")),
			actPending, reasonVolumeMismatch},
		{"the volume is free and going", testClaim(names("a")), testPV("a", pvBeingDeleted), actPending,
			reasonVolumeMismatch},
		{"a selector does not matter to a claim that chose", testClaim(names("a"), asksLabel("x", "y")), testPV("a"),
			actBind, ""},
		{"the volume is reserved for the claim", testClaim(names("a")), testPV("a", claimedBy("data", "")), actBind, ""},
		{"the volume has the claim's UID: a bind was cut short", testClaim(names("a")), testPV("a", claimedBy("data", "u")),
			actBind, ""},
		{"the volume was the claim's namesake's", testClaim(names("a")),
			testPV("a", claimedBy("data", "old"), inPhase(corev1.VolumeReleased)), actPending, reasonFailedBinding},
		{"the volume is another's", testClaim(names("a")), testPV("a", claimedBy("other", "o")), actPending,
			reasonFailedBinding},
	} {
		t.Run(c.name, func(t *testing.T) { checkDecision(t, decideNamed(c.claim, c.pv), c.action, c.reason) })
	}
}

func TestDecideBound(t *testing.T) {
	for _, c := range []struct {
		name   string
		claim  *corev1.PersistentVolumeClaim
		pv     *corev1.PersistentVolume
		action claimAction
		reason string
	}{
		{"all is well, or the last write is missing", testClaim(names("a")), testPV("a", claimedBy("data", "u")),
			actBind, ""},
		{"the claim forgot its volume", testClaim(), nil, actLost, reasonClaimLost},
		{"the volume is gone", testClaim(names("a")), nil, actLost, reasonClaimLost},
		{"the volume forgot its claim", testClaim(names("a")), testPV("a"), actBind, ""},
		{"the volume was restored from a backup, without the UID", testClaim(names("a")), testPV("a", claimedBy("data", "")),
			actBind, ""},
		{"the volume is another's", testClaim(names("a")), testPV("a", claimedBy("other", "o")), actLost,
			reasonClaimMisbound},
		{"the volume is the claim's namesake's", testClaim(names("a")), testPV("a", claimedBy("data", "old")),
			actLost, reasonClaimMisbound},
	} {
		t.Run(c.name, func(t *testing.T) { checkDecision(t, decideBound(c.claim, c.pv), c.action, c.reason) })
	}
}

func TestDecideUnmatched(t *testing.T) {
	const immediate, delayed = storagev1.VolumeBindingImmediate, storagev1.VolumeBindingWaitForFirstConsumer
	own := func(name string) bool { return strings.HasSuffix(name, ownProvisionerSuffix) }
	withoutClass := func(c *corev1.PersistentVolumeClaim) { c.Spec.StorageClassName = nil }
	declining := func(c *corev1.PersistentVolumeClaim) { c.Spec.StorageClassName = new(string) }
	selected := annotated("volume.kubernetes.io/selected-node", "n1")
	def := testStorageClass("local.csi.orlop.io", delayed)
	for _, c := range []struct {
		name          string
		claim         *corev1.PersistentVolumeClaim
		class         *storagev1.StorageClass
		defaultClass  *storagev1.StorageClass
		action        claimAction
		reason, parts string
	}{
		{"no class, and no default", testClaim(withoutClass), nil, nil, actPending, reasonFailedBinding,
			"no storage class is set"},
		{"no class, and a default", testClaim(withoutClass), nil, def, actAssignClass, "", ""},
		{"a default is declined", testClaim(declining), nil, def, actPending, reasonFailedBinding, "no storage class is set"},
		{"the beta annotation is a class, too", testClaim(withoutClass, annotated(corev1.BetaStorageClassAnnotation, "iron")),
			nil, def, actProvisionFailed, reasonProvisioningFailed, "iron"},
		{"the class does not exist", testClaim(), nil, def, actProvisionFailed, reasonProvisioningFailed, testClass},
		{"the class provisions nothing", testClaim(), testStorageClass("kubernetes.io/no-provisioner", immediate), nil,
			actProvisionFailed, reasonProvisioningFailed, "at least 1Gi"},
		{"the class provisions nothing and there is no pod", testClaim(),
			testStorageClass("kubernetes.io/no-provisioner", delayed), nil, actAwaitConsumer, "", ""},
		{"our own provisioner", testClaim(), testStorageClass("local.csi.orlop.io", immediate), nil, actAwaitVolume, "", ""},
		{"our own provisioner, no pod", testClaim(), testStorageClass("local.csi.orlop.io", delayed), nil,
			actAwaitConsumer, "", ""},
		{"our own provisioner, with a node", testClaim(selected), testStorageClass("local.csi.orlop.io", delayed), nil,
			actAwaitVolume, "", ""},
		{"a foreign provisioner", testClaim(), testStorageClass("example.com/nfs", immediate), nil,
			actRequestVolume, reasonExternalProvisioning, "example.com/nfs"},
		{"a foreign provisioner, no pod", testClaim(), testStorageClass("example.com/nfs", delayed), nil,
			actAwaitConsumer, "", ""},
		{"a foreign provisioner, with a node", testClaim(selected), testStorageClass("example.com/nfs", delayed), nil,
			actRequestVolume, reasonExternalProvisioning, "example.com/nfs"},
		{"an in-tree provisioner whose work a CSI driver does", testClaim(), testStorageClass("kubernetes.io/aws-ebs", immediate), nil,
			actRequestVolume, reasonExternalProvisioning, "ebs.csi.aws.com"},
		{"an in-tree provisioner that is gone", testClaim(), testStorageClass("kubernetes.io/host-path", immediate), nil,
			actProvisionFailed, reasonProvisioningFailed, "kubernetes.io/host-path"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := decideUnmatched(unmatched{claim: c.claim, class: c.class, defaultClass: c.defaultClass, own: own})
			checkDecision(t, d, c.action, c.reason)
			if !strings.Contains(d.message, c.parts) {
				t.Errorf("message %q does not say %q", d.message, c.parts)
			}
		})
	}
}

func checkDecision(t *testing.T, d claimDecision, action claimAction, reason string) {
	t.Helper()
	if d.action != action || d.reason != reason {
		t.Errorf("decision is %s (%s), want %s (%s)", d.action, d.reason, action, reason)
	}
	if (d.reason == "") != (d.message == "") {
		t.Errorf("reason %q and message %q", d.reason, d.message)
	}
}

func TestDecideVolume(t *testing.T) {
	provisioned := pvAnnotation("pv.kubernetes.io/provisioned-by", "local.csi.orlop.io")
	deleted := func(pv *corev1.PersistentVolume) {
		pv.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimDelete
	}
	ours := claimedBy("data", "u")
	for _, c := range []struct {
		name  string
		pv    *corev1.PersistentVolume
		claim *corev1.PersistentVolumeClaim
		want  volumeAction
	}{
		{"nobody's", testPV("a"), nil, volumeAvailable},
		{"nobody's and going", testPV("a", pvBeingDeleted), nil, volumeRemoved},
		{"reserved by name", testPV("a", claimedBy("data", "")), nil, volumeAvailable},
		{"the claim is gone", testPV("a", ours), nil, volumeReleased},
		{"the claim has not been written yet", testPV("a", ours), testClaim(), volumeBinding},
		{"the claim cannot use it", testPV("a", ours, pvBlock), testClaim(), volumeUnfit},
		{"both agree", testPV("a", ours), testClaim(names("a")), volumeBound},
		{"the claim is static and took another", testPV("a", ours), testClaim(names("b")), volumeUnbind},
		{"it was made for the claim, which took another", testPV("a", ours, provisioned, deleted),
			testClaim(names("b")), volumeLeftOver},
		{"the same, to be retained", testPV("a", ours, provisioned), testClaim(names("b")), volumeUnbind},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := decideVolume(c.pv, c.claim); got != c.want {
				t.Errorf("action is %s, want %s", got, c.want)
			}
		})
	}
}

func TestNewestDefault(t *testing.T) {
	class := func(name, annotation string, second int64) *storagev1.StorageClass {
		return &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{
			Name: name, Annotations: map[string]string{annotation: "true"}, CreationTimestamp: metav1.Unix(second, 0),
		}}
	}
	for _, c := range []struct {
		name    string
		classes []*storagev1.StorageClass
		want    string
	}{
		{"no classes", nil, ""},
		{"none is the default", []*storagev1.StorageClass{class("a", "x", 1)}, ""},
		{"one", []*storagev1.StorageClass{class("a", "x", 1), class("b", annDefaultClass, 1)}, "b"},
		{"the old annotation", []*storagev1.StorageClass{class("a", annBetaDefaultClass, 1)}, "a"},
		{"the newest of several", []*storagev1.StorageClass{
			class("a", annDefaultClass, 1), class("b", annDefaultClass, 3), class("c", annDefaultClass, 2)}, "b"},
		{"the first by name of those made in one second", []*storagev1.StorageClass{
			class("b", annDefaultClass, 1), class("a", annDefaultClass, 1)}, "a"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := ""
			if class := newestDefault(c.classes); class != nil {
				got = class.Name
			}
			if got != c.want {
				t.Errorf("default is %q, want %q", got, c.want)
			}
		})
	}
}

func TestDeletedElsewhere(t *testing.T) {
	for _, c := range []struct {
		name string
		pv   *corev1.PersistentVolume
		want bool
	}{
		{"a static in-tree volume", testPV("a"), false},
		{"a CSI volume", testPV("a", func(pv *corev1.PersistentVolume) {
			pv.Spec.CSI = &corev1.CSIPersistentVolumeSource{}
		}), true},
		{"with the provisioner's finalizer", testPV("a", func(pv *corev1.PersistentVolume) {
			pv.Finalizers = []string{"external-provisioner.volume.kubernetes.io/finalizer"}
		}), true},
		{"made by a foreign provisioner",
			testPV("a", pvAnnotation("pv.kubernetes.io/provisioned-by", "example.com/nfs")), true},
		{"made by an in-tree provisioner",
			testPV("a", pvAnnotation("pv.kubernetes.io/provisioned-by", "kubernetes.io/host-path")), false},
		{"made by one that moved to CSI",
			testPV("a", pvAnnotation("pv.kubernetes.io/provisioned-by", "kubernetes.io/gce-pd")), true},
		{"marked as moved to CSI", testPV("a", pvAnnotation("pv.kubernetes.io/migrated-to", "pd.csi.storage.gke.io")), true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := deletedElsewhere(c.pv); got != c.want {
				t.Errorf("deletedElsewhere is %t", got)
			}
		})
	}
}
