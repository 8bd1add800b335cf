package pvcontroller

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
	storagehelpers "k8s.io/component-helpers/storage/volume"
)

// The indexes under which the caches find what belongs together without walking everything.
const (
	unclaimedByClass = "orlop.io/unclaimed-by-class" // volumes without a claimRef, by storage class
	volumeByClaim    = "orlop.io/volume-by-claim"    // volumes with a claimRef, by "namespace/name" of the claim
	unboundByClass   = "orlop.io/unbound-by-class"   // claims not bound yet, by storage class
	claimByVolume    = "orlop.io/claim-by-volume"    // claims that name a volume, by its name
	podByClaim       = "orlop.io/pod-by-claim"       // pods that are not finished, by "namespace/name" of a claim
)

func addIndexers(s *informerSet) error {
	for _, add := range []struct {
		informer cache.SharedIndexInformer
		indexers cache.Indexers
	}{
		{s.volumes, cache.Indexers{unclaimedByClass: indexBy(func(pv *corev1.PersistentVolume) []string {
			if pv.Spec.ClaimRef != nil {
				return nil
			}
			return []string{storagehelpers.GetPersistentVolumeClass(pv)}
		}), volumeByClaim: indexBy(func(pv *corev1.PersistentVolume) []string {
			if pv.Spec.ClaimRef == nil {
				return nil
			}
			return []string{claimKey(pv)}
		})}},
		{s.claims, cache.Indexers{unboundByClass: indexBy(func(claim *corev1.PersistentVolumeClaim) []string {
			if bindCompleted(claim) {
				return nil
			}
			return []string{storagehelpers.GetPersistentVolumeClaimClass(claim)}
		}), claimByVolume: indexBy(func(claim *corev1.PersistentVolumeClaim) []string {
			if claim.Spec.VolumeName == "" {
				return nil
			}
			return []string{claim.Spec.VolumeName}
		})}},
		{s.pods, cache.Indexers{podByClaim: indexBy(claimsOfPod)}},
	} {
		if err := add.informer.AddIndexers(add.indexers); err != nil {
			return err
		}
	}
	return nil
}

func indexBy[T any](keys func(T) []string) cache.IndexFunc {
	return func(obj any) ([]string, error) {
		if t, ok := obj.(T); ok {
			return keys(t), nil
		}
		return nil, nil
	}
}

// claimsOfPod lists the keys of the claims that an unfinished pod uses, those made from its ephemeral volumes too.
func claimsOfPod(pod *corev1.Pod) []string {
	if pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return nil
	}
	var keys []string
	for i := range pod.Spec.Volumes {
		switch v := &pod.Spec.Volumes[i]; {
		case v.PersistentVolumeClaim != nil:
			keys = append(keys, pod.Namespace+"/"+v.PersistentVolumeClaim.ClaimName)
		case v.Ephemeral != nil:
			keys = append(keys, pod.Namespace+"/"+pod.Name+"-"+v.Name)
		}
	}
	return keys
}

// claimKey is the "namespace/name" of the claim that a volume refers to. The volume must have a claimRef.
func claimKey(pv *corev1.PersistentVolume) string {
	return pv.Spec.ClaimRef.Namespace + "/" + pv.Spec.ClaimRef.Name
}

func bindCompleted(claim *corev1.PersistentVolumeClaim) bool {
	return metav1.HasAnnotation(claim.ObjectMeta, storagehelpers.AnnBindCompleted)
}

// Transform takes out of objects what this controller never reads: managed fields, and almost all of a pod. Give it
// to informers.WithTransform; the factory's other users then must not need those parts either.
func Transform(obj any) (any, error) {
	if accessor, ok := obj.(metav1.ObjectMetaAccessor); ok {
		if meta, ok := accessor.GetObjectMeta().(*metav1.ObjectMeta); ok {
			meta.ManagedFields = nil
		}
	}
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return obj, nil
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: pod.Name, Namespace: pod.Namespace, UID: pod.UID, ResourceVersion: pod.ResourceVersion,
		},
		Spec:   corev1.PodSpec{NodeName: pod.Spec.NodeName, Volumes: pod.Spec.Volumes},
		Status: corev1.PodStatus{Phase: pod.Status.Phase},
	}, nil
}
