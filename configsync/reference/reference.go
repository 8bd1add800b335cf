package reference

import (
	"cmp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/orlop-io/orlop/configsync/payload"
	"github.com/orlop-io/orlop/configsync/source"
)

// InlineDriver is the CSI driver whose inline volumes show one ConfigMap or Secret each, named by the attributes below.
const InlineDriver = "config.csi.orlop.io"

// The attributes of an inline volume that say what it shows: the kind (ConfigMap or Secret, in any case), the name, the
// namespace (the pod's by default), and whether the object may be absent ("true").
const (
	InlineKind      = "kind"
	InlineName      = "name"
	InlineNamespace = "namespace"
	InlineOptional  = "optional"
	// InlineSources is, in the place of the others, a list in YAML or JSON of objects with fields of these names.
	InlineSources = "sources"
)

// Use is a set of ways in which a pod uses an object.
type Use uint8

const (
	// Env means that a container has it, or keys of it, in its environment (env, envFrom). The values are those of the
	// container's start.
	Env Use = 1 << iota
	// Volume means that a volume of the pod shows it (configMap, secret, projected, or inline by InlineDriver).
	Volume
	// SubPath means that a container mounts part of such a volume by subPath or subPathExpr, which follows no change.
	SubPath
	// Whole means that a container mounts such a volume without subPath.
	Whole
	// PullSecret means that it is an image pull secret.
	PullSecret
	// Other means that a volume driver reads it, as credentials, when it mounts a volume of the pod.
	Other
)

// Has reports whether the set holds one of the uses at least.
func (u Use) Has(uses Use) bool { return u&uses != 0 }

// String lists the uses as messages show them.
func (u Use) String() string {
	var names []string
	for i, name := range []string{"env", "volume", "subPath", "whole", "pull secret", "other"} {
		if u.Has(1 << i) {
			names = append(names, name)
		}
	}
	return strings.Join(names, ", ")
}

// Reference is one object that a pod refers to, at however many places.
type Reference struct {
	Key  source.Key
	Uses Use
	// Optional: the pod starts without the object, because each of the references says so or, for an image pull
	// secret, because the kubelet does not insist on it.
	Optional bool
}

// Of returns what the pod refers to, one entry an object, sorted by kind, namespace and name. The namespace is the pod's.
// Init, sidecar and ephemeral containers count like any other. The spec is not changed.
func Of(namespace string, spec *corev1.PodSpec) []Reference {
	c := collector{namespace: namespace, found: map[source.Key]*Reference{}, volumes: map[string][]*Reference{}}
	// Volumes come first: the containers' mounts say more about them.
	for i := range spec.Volumes {
		c.volume(&spec.Volumes[i])
	}
	for i := range spec.InitContainers {
		c.container(spec.InitContainers[i].Env, spec.InitContainers[i].EnvFrom, spec.InitContainers[i].VolumeMounts)
	}
	for i := range spec.Containers {
		c.container(spec.Containers[i].Env, spec.Containers[i].EnvFrom, spec.Containers[i].VolumeMounts)
	}
	for i := range spec.EphemeralContainers {
		e := &spec.EphemeralContainers[i].EphemeralContainerCommon
		c.container(e.Env, e.EnvFrom, e.VolumeMounts)
	}
	for _, secret := range spec.ImagePullSecrets {
		c.local(payload.Secret, secret.Name, PullSecret, true)
	}
	references := make([]Reference, 0, len(c.found))
	for _, r := range c.found {
		references = append(references, *r)
	}
	slices.SortFunc(references, func(a, b Reference) int { return compare(a.Key, b.Key) })
	return references
}

func compare(a, b source.Key) int {
	return cmp.Or(strings.Compare(string(a.Kind), string(b.Kind)), strings.Compare(a.Namespace, b.Namespace),
		strings.Compare(a.Name, b.Name))
}

// collector gathers references.
type collector struct {
	namespace string
	found     map[source.Key]*Reference
	// volumes are the references of each volume, by its name.
	volumes map[string][]*Reference
}

// add notes one reference, and returns nil where it names nothing.
func (c *collector) add(key source.Key, use Use, optional bool) *Reference {
	if key.Name == "" {
		return nil
	}
	r := c.found[key]
	if r == nil {
		r = &Reference{Key: key, Optional: true}
		c.found[key] = r
	}
	r.Uses |= use
	r.Optional = r.Optional && optional
	return r
}

// local notes a reference to an object of the pod's namespace.
func (c *collector) local(kind payload.Kind, name string, use Use, optional bool) *Reference {
	return c.add(source.Key{Kind: kind, Namespace: c.namespace, Name: name}, use, optional)
}

func (c *collector) container(env []corev1.EnvVar, from []corev1.EnvFromSource, mounts []corev1.VolumeMount) {
	for i := range from {
		if r := from[i].ConfigMapRef; r != nil {
			c.local(payload.ConfigMap, r.Name, Env, isTrue(r.Optional))
		}
		if r := from[i].SecretRef; r != nil {
			c.local(payload.Secret, r.Name, Env, isTrue(r.Optional))
		}
	}
	for i := range env {
		v := env[i].ValueFrom
		if v == nil {
			continue
		}
		if r := v.ConfigMapKeyRef; r != nil {
			c.local(payload.ConfigMap, r.Name, Env, isTrue(r.Optional))
		}
		if r := v.SecretKeyRef; r != nil {
			c.local(payload.Secret, r.Name, Env, isTrue(r.Optional))
		}
	}
	for i := range mounts {
		use := Whole
		if mounts[i].SubPath != "" || mounts[i].SubPathExpr != "" {
			use = SubPath
		}
		for _, r := range c.volumes[mounts[i].Name] {
			r.Uses |= use
		}
	}
}

func isTrue(b *bool) bool { return b != nil && *b }
