package reference

import corev1 "k8s.io/api/core/v1"

// SubPathAnnotation of a pod says what becomes of files that its containers mount with subPath. Its one value is
// SubPathInPlace; without it they stay as they were when the container started, as in upstream's kubelet.
const (
	SubPathAnnotation = "config.orlop.io/subpath"
	// SubPathInPlace overwrites such a file when its object changes. The file keeps its inode, and it is not atomic.
	SubPathInPlace = "in-place"
)

// FollowsSubPath reports whether the pod asks for files mounted with subPath to follow their objects.
func FollowsSubPath(pod *corev1.Pod) bool {
	return pod.Annotations[SubPathAnnotation] == SubPathInPlace
}
