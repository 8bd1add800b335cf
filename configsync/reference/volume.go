package reference

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/orlop-io/orlop/configsync/payload"
	"github.com/orlop-io/orlop/configsync/source"
)

// volume notes what a volume shows, and what the driver of any other volume reads.
func (c *collector) volume(v *corev1.Volume) {
	show := func(r *Reference) {
		if r != nil {
			c.volumes[v.Name] = append(c.volumes[v.Name], r)
		}
	}
	switch {
	case v.ConfigMap != nil:
		show(c.local(payload.ConfigMap, v.ConfigMap.Name, Volume, isTrue(v.ConfigMap.Optional)))
	case v.Secret != nil:
		show(c.local(payload.Secret, v.Secret.SecretName, Volume, isTrue(v.Secret.Optional)))
	case v.Projected != nil:
		for i := range v.Projected.Sources {
			s := &v.Projected.Sources[i]
			if s.ConfigMap != nil {
				show(c.local(payload.ConfigMap, s.ConfigMap.Name, Volume, isTrue(s.ConfigMap.Optional)))
			}
			if s.Secret != nil {
				show(c.local(payload.Secret, s.Secret.Name, Volume, isTrue(s.Secret.Optional)))
			}
		}
	case v.CSI != nil && v.CSI.Driver == InlineDriver:
		for _, o := range inlineObjects(v.CSI.VolumeAttributes) {
			show(c.inline(o))
		}
	}
	c.credentials(&v.VolumeSource)
}

// maxSources bounds a list of objects, in bytes, as the driver does.
const maxSources = 64 << 10

// inlineObject is one object of an inline volume, as attributes or an element of their list name it.
type inlineObject struct {
	Kind      string `json:"kind"`
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
	Optional  any    `json:"optional"` // anything but true is a reference that must hold
}

// inlineObjects returns what the attributes name. A list that the driver will not understand names nothing.
func inlineObjects(attributes map[string]string) []inlineObject {
	text, several := attributes[InlineSources]
	if !several {
		return []inlineObject{{
			Kind: attributes[InlineKind], Name: attributes[InlineName], Namespace: attributes[InlineNamespace],
			Optional: attributes[InlineOptional] == "true",
		}}
	}
	var objects []inlineObject
	if len(text) > maxSources || yaml.Unmarshal([]byte(text), &objects) != nil {
		return nil
	}
	return objects
}

// inline notes an object that an inline volume of our own shows. One that the driver will refuse is no reference.
func (c *collector) inline(o inlineObject) *Reference {
	key := source.Key{Namespace: c.namespace, Name: o.Name}
	if o.Namespace != "" {
		key.Namespace = o.Namespace
	}
	switch {
	case strings.EqualFold(o.Kind, string(payload.ConfigMap)):
		key.Kind = payload.ConfigMap
	case strings.EqualFold(o.Kind, string(payload.Secret)):
		key.Kind = payload.Secret
	default:
		return nil
	}
	return c.add(key, Volume, o.Optional == true)
}

// credentials notes the Secret that a driver reads to mount the volume. These are all the types of volumes with such a
// reference, as upstream's VisitPodSecretNames has them.
func (c *collector) credentials(v *corev1.VolumeSource) {
	var local *corev1.LocalObjectReference
	switch {
	case v.AzureFile != nil:
		c.local(payload.Secret, v.AzureFile.SecretName, Other, false)
	case v.CephFS != nil:
		local = v.CephFS.SecretRef
	case v.Cinder != nil:
		local = v.Cinder.SecretRef
	case v.CSI != nil:
		local = v.CSI.NodePublishSecretRef
	case v.FlexVolume != nil:
		local = v.FlexVolume.SecretRef
	case v.ISCSI != nil:
		local = v.ISCSI.SecretRef
	case v.RBD != nil:
		local = v.RBD.SecretRef
	case v.ScaleIO != nil:
		local = v.ScaleIO.SecretRef
	case v.StorageOS != nil:
		local = v.StorageOS.SecretRef
	}
	if local != nil {
		c.local(payload.Secret, local.Name, Other, false)
	}
}
