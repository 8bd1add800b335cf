package provisioner

import (
	corev1 "k8s.io/api/core/v1"
)

// A pod whose manifest names its node passes the scheduler by. With upstream's components its late-binding claim then
// waits forever, since nobody selects a node for it; here the pod's own node is selected.

// claimsOfPlacedPod lists, as namespace/name, the claims of a pod that has a node and has not ended.
func claimsOfPlacedPod(pod *corev1.Pod) []string {
	if pod.Spec.NodeName == "" || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
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

// podSeen queues the claims of a pod that has been given a node.
func (l *Leader) podSeen(old, object any) {
	pod, ok := object.(*corev1.Pod)
	if before, had := old.(*corev1.Pod); !ok || (had && before.Spec.NodeName == pod.Spec.NodeName) {
		return
	}
	for _, key := range claimsOfPlacedPod(pod) {
		object, found, err := l.claimInformer.GetIndexer().GetByKey(key)
		if err != nil {
			l.log.Error(err, "Get a claim from the cache", "claim", key)
		}
		if !found {
			continue
		}
		// The scheduler's pods have bound claims by the time they have a node.
		if claim := claimOf(object); unbound(claim) && claim.Annotations[annSelectedNode] == "" {
			l.claimQueue.Add(keyOf(claim))
		}
	}
}

// nodeOfPod returns the node of a pod that uses the claim, or nothing.
func (l *Leader) nodeOfPod(claim *corev1.PersistentVolumeClaim) (string, error) {
	pods, err := l.podInformer.GetIndexer().ByIndex(l.podIndex(), claim.Namespace+"/"+claim.Name)
	if err != nil {
		return "", err
	}
	for _, object := range pods {
		if pod, ok := object.(*corev1.Pod); ok {
			return pod.Spec.NodeName, nil
		}
	}
	return "", nil
}
