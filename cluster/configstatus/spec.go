package configstatus

import (
	"cmp"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/orlop-io/orlop/configsync/payload"
)

// inline is what the attributes of a CSI volume of configuration, or an element of their list of sources, say of an object.
type inline struct {
	Kind      payload.Kind `json:"kind"`
	Name      string       `json:"name"`
	Namespace string       `json:"namespace"`
	Optional  bool         `json:"optional"`
}

// inlineSources returns the objects that the attributes name. What the driver refuses names none.
func inlineSources(attributes map[string]string) []inline {
	if list, ok := attributes["sources"]; ok {
		var all []inline
		if err := yaml.Unmarshal([]byte(list), &all); err != nil {
			return nil
		}
		return all
	}
	return []inline{{payload.Kind(attributes["kind"]), attributes["name"], attributes["namespace"], attributes["optional"] == "true"}}
}

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
		for _, o := range inlineSources(v.CSI.VolumeAttributes) {
			refer(o.Kind, cmp.Or(o.Namespace, namespace), o.Name, &o.Optional)
		}
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
