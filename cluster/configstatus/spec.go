package configstatus

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/orlop-io/orlop/configsync/payload"
)

// Attributes of a CSI volume of configuration that name its object.
const (
	attributeKind      = "kind"
	attributeName      = "name"
	attributeNamespace = "namespace"
	attributeOptional  = "optional"
)

// reference is an object that a pod's manifest names.
type reference struct {
	key      key
	optional bool
}

// source is what a manifest says of one configuration volume.
type source struct {
	kind       string
	references []reference
	fields     []corev1.DownwardAPIVolumeFile
}

// sourceOf returns what the manifest says of a volume, and false for one that is none of configuration.
func sourceOf(namespace string, v *corev1.Volume) (source, bool) {
	s := source{}
	refer := func(kind payload.Kind, namespace, name string, optional *bool) {
		s.references = append(s.references, reference{key{kind, namespace, name}, optional != nil && *optional})
	}
	switch {
	case v.ConfigMap != nil:
		s.kind = "configMap"
		refer(payload.ConfigMap, namespace, v.ConfigMap.Name, v.ConfigMap.Optional)
	case v.Secret != nil:
		s.kind = "secret"
		refer(payload.Secret, namespace, v.Secret.SecretName, v.Secret.Optional)
	case v.DownwardAPI != nil:
		s.kind, s.fields = "downwardAPI", v.DownwardAPI.Items
	case v.Projected != nil:
		s.kind = "projected"
		for _, p := range v.Projected.Sources {
			switch {
			case p.ConfigMap != nil:
				refer(payload.ConfigMap, namespace, p.ConfigMap.Name, p.ConfigMap.Optional)
			case p.Secret != nil:
				refer(payload.Secret, namespace, p.Secret.Name, p.Secret.Optional)
			case p.DownwardAPI != nil:
				s.fields = append(s.fields, p.DownwardAPI.Items...)
			}
		}
	case v.CSI != nil && v.CSI.Driver == csiDriver:
		s.kind = "csi"
		a := v.CSI.VolumeAttributes
		if other := a[attributeNamespace]; other != "" {
			namespace = other
		}
		optional := a[attributeOptional] == "true"
		refer(payload.Kind(a[attributeKind]), namespace, a[attributeName], &optional)
	default:
		return s, false
	}
	return s, true
}

// uidOnNode is the UID by which the kubelet knows a pod: for a static pod that of its file.
func uidOnNode(pod *corev1.Pod) string {
	if uid, ok := pod.Annotations[corev1.MirrorPodAnnotationKey]; ok {
		return uid
	}
	return string(pod.UID)
}
