package configstatus

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/orlop-io/orlop/configsync/payload"
	podreference "github.com/orlop-io/orlop/configsync/reference"
)

// container is what all kinds of containers have in common.
type container struct {
	name    string
	env     []corev1.EnvVar
	envFrom []corev1.EnvFromSource
	mounts  []corev1.VolumeMount
}

// fixed lists what the running containers of a pod keep of objects until they are started again: environment variables,
// and files mounted by subPath.
func fixed(pod *corev1.Pod, objects map[key]*metav1.ObjectMeta) []Fixed {
	started := map[string]time.Time{}
	for _, statuses := range [][]corev1.ContainerStatus{
		pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses, pod.Status.EphemeralContainerStatuses,
	} {
		for _, s := range statuses {
			if s.State.Running != nil {
				started[s.Name] = s.State.Running.StartedAt.Time
			}
		}
	}
	var all []Fixed
	for _, c := range containers(pod) {
		since, running := started[c.name]
		if !running {
			continue
		}
		add := func(what string, k key, optional, inPlace bool) {
			f := Fixed{Namespace: pod.Namespace, Pod: pod.Name, Container: c.name, What: what, Kind: k.kind, Name: k.name}
			f.Changed, f.Message = verdict(objects[k], since, optional)
			if inPlace {
				f.Changed, f.Message = false, "a file is overwritten in place; a directory stays as it was"
			}
			all = append(all, f)
		}
		variables(c, pod.Namespace, add)
		subPaths(c, pod, add)
	}
	return all
}

func containers(pod *corev1.Pod) []container {
	var all []container
	for _, c := range pod.Spec.InitContainers {
		all = append(all, container{c.Name, c.Env, c.EnvFrom, c.VolumeMounts})
	}
	for _, c := range pod.Spec.Containers {
		all = append(all, container{c.Name, c.Env, c.EnvFrom, c.VolumeMounts})
	}
	for _, c := range pod.Spec.EphemeralContainers {
		all = append(all, container{c.Name, c.Env, c.EnvFrom, c.VolumeMounts})
	}
	return all
}

// variables adds the objects that a container's environment is of, each once with its variables.
func variables(c container, namespace string, add func(what string, k key, optional, inPlace bool)) {
	names := map[key][]string{}
	var order []key
	optional := map[key]bool{}
	refer := func(kind payload.Kind, name, variable string, opt *bool) {
		k := key{kind, namespace, name}
		if names[k] == nil {
			order = append(order, k)
		}
		names[k] = append(names[k], variable)
		optional[k] = isTrue(opt)
	}
	for _, e := range c.env {
		switch from := e.ValueFrom; {
		case from == nil:
		case from.ConfigMapKeyRef != nil:
			refer(payload.ConfigMap, from.ConfigMapKeyRef.Name, e.Name, from.ConfigMapKeyRef.Optional)
		case from.SecretKeyRef != nil:
			refer(payload.Secret, from.SecretKeyRef.Name, e.Name, from.SecretKeyRef.Optional)
		}
	}
	for _, k := range order {
		add("env "+strings.Join(names[k], ", "), k, optional[k], false)
	}
	for _, e := range c.envFrom {
		switch {
		case e.ConfigMapRef != nil:
			add("envFrom", key{payload.ConfigMap, namespace, e.ConfigMapRef.Name}, isTrue(e.ConfigMapRef.Optional), false)
		case e.SecretRef != nil:
			add("envFrom", key{payload.Secret, namespace, e.SecretRef.Name}, isTrue(e.SecretRef.Optional), false)
		}
	}
}

func isTrue(b *bool) bool { return b != nil && *b }

// subPaths adds the objects of volumes of which a container has a part mounted by subPath. Files that the kubelet overwrites
// in place are among them: whether it is a file or a directory, which stays, the manifest does not tell.
func subPaths(c container, pod *corev1.Pod, add func(what string, k key, optional, inPlace bool)) {
	for _, m := range c.mounts {
		if m.SubPath == "" && m.SubPathExpr == "" {
			continue
		}
		for i := range pod.Spec.Volumes {
			if pod.Spec.Volumes[i].Name != m.Name {
				continue
			}
			// What the CSI driver writes is not the kubelet's.
			inPlace := pod.Spec.Volumes[i].CSI == nil && podreference.FollowsSubPath(pod)
			s, _ := sourceOf(pod.Namespace, &pod.Spec.Volumes[i])
			for _, r := range s.references {
				add("subPath "+m.MountPath, r.key, r.optional, inPlace)
			}
		}
	}
}

// verdict says whether an object changed after a container had started, by what its metadata tells.
func verdict(meta *metav1.ObjectMeta, started time.Time, optional bool) (changed bool, message string) {
	if meta == nil {
		if optional {
			return false, "there is none; it is optional"
		}
		return true, "deleted since the container started"
	}
	if meta.CreationTimestamp.After(started) {
		return true, "made after the container started: restart it"
	}
	switch at := edited(meta); {
	case at.IsZero():
		return false, "keeps what it was when the container started"
	case at.After(started):
		return true, fmt.Sprintf("edited at %s, after the container started: restart it", at.UTC().Format(time.RFC3339))
	case at.Equal(started):
		return false, "edited in the very second in which the container started: it has either state"
	}
	return false, "unchanged since the container started"
}
