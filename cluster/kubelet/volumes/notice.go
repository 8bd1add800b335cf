package volumes

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/orlop-io/orlop/configsync/reference"
)

// notices remembers what each pod has been told about its subPath mounts. One event tells of all of them, so it waits
// until every volume that is mounted that way is set up.
type notices struct {
	mu   sync.Mutex
	pods map[types.UID]*notice
}

type notice struct {
	volumes map[string]bool // set up, and whether it follows its objects
	started bool            // the pod had volumes before this process
	done    bool            // the event on what does not follow is written, or not needed
	refused string          // the annotation's value that was refused
}

// setUp notes that a volume of the pod is there, live or not, and made in this process or found. It reports whether the
// pod is now to be told.
func (n *notices) setUp(pod *v1.Pod, volume string, live, found bool) (volumes map[string]bool, tell bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.pods == nil {
		n.pods = map[types.UID]*notice{}
	}
	of := n.pods[pod.UID]
	if of == nil {
		of = &notice{volumes: map[string]bool{}}
		n.pods[pod.UID] = of
	}
	of.started = of.started || found
	of.volumes[volume] = live
	if of.done {
		return nil, false
	}
	for _, m := range subPathMounts(pod) {
		if _, ok := of.volumes[m.volume]; !ok {
			return nil, false
		}
	}
	of.done = true
	return of.volumes, !of.started
}

// refuse reports whether the pod is to be told that the annotation's value is refused. After a restart it was told before.
func (n *notices) refuse(pod types.UID, value string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	of := n.pods[pod]
	if of == nil || of.refused == value {
		return false
	}
	first := of.refused == ""
	of.refused = value
	return !first || !of.started
}

// forget forgets a volume of a pod, and the pod with the last one.
func (n *notices) forget(pod types.UID, volume string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	of := n.pods[pod]
	if of == nil {
		return
	}
	if delete(of.volumes, volume); len(of.volumes) == 0 {
		delete(n.pods, pod)
	}
}

// subPathMount is a volumeMount with subPath of a configuration volume.
type subPathMount struct {
	container, volume, subPath, mountPath string
}

// subPathMounts returns those of the pod's containers, of all kinds, in the order of the manifest.
func subPathMounts(pod *v1.Pod) []subPathMount {
	var found []subPathMount
	add := func(container string, all []v1.VolumeMount) {
		for _, m := range all {
			subPath := m.SubPath
			if subPath == "" {
				subPath = m.SubPathExpr
			}
			// The volume's own directory follows.
			if subPath == "" || path.Clean(subPath) == "." {
				continue
			}
			if i := slices.IndexFunc(pod.Spec.Volumes, func(v v1.Volume) bool { return v.Name == m.Name }); i >= 0 {
				if _, mode := projection(pod.Spec.Volumes[i]); mode != nil {
					found = append(found, subPathMount{container, m.Name, subPath, m.MountPath})
				}
			}
		}
	}
	for i := range pod.Spec.InitContainers {
		add(pod.Spec.InitContainers[i].Name, pod.Spec.InitContainers[i].VolumeMounts)
	}
	for i := range pod.Spec.Containers {
		add(pod.Spec.Containers[i].Name, pod.Spec.Containers[i].VolumeMounts)
	}
	for i := range pod.Spec.EphemeralContainers {
		add(pod.Spec.EphemeralContainers[i].Name, pod.Spec.EphemeralContainers[i].VolumeMounts)
	}
	return found
}

// notify tells the pod, once, which of its mounts will not follow their objects.
func (mt *mount) notify(found bool) {
	pod := mt.request.pod
	all := subPathMounts(pod)
	if !slices.ContainsFunc(all, func(m subPathMount) bool { return m.volume == mt.key.volume }) {
		return
	}
	live, tell := mt.manager.notices.setUp(pod, mt.key.volume, mt.live(), found)
	if value, set := pod.Annotations[reference.SubPathAnnotation]; set && value != reference.SubPathInPlace {
		if mt.manager.notices.refuse(pod.UID, value) {
			mt.warning(reasonSubPathInvalid, "Annotation %s has the value %.60q, which means nothing: %q is "+
				"the one there is", reference.SubPathAnnotation, value, reference.SubPathInPlace)
		}
	}
	if !tell || reference.FollowsSubPath(pod) {
		return
	}
	var lines []string
	for _, m := range all {
		if live[m.volume] {
			lines = append(lines, fmt.Sprintf("container %q: %s (subPath %q of volume %q)", m.container, m.mountPath, m.subPath, m.volume))
		}
	}
	if len(lines) > 0 {
		mt.warning(reasonSubPathNotLive, "Mounted with subPath, and will not follow changes: %s. Mount the "+
			"volume without subPath, or let files be overwritten with the annotation %s: %s",
			shorten(lines), reference.SubPathAnnotation, reference.SubPathInPlace)
	}
}

// shorten joins the lines, as many as an event has room for.
func shorten(lines []string) string {
	const most = 5
	if len(lines) > most {
		lines = append(lines[:most:most], fmt.Sprintf("and %d more", len(lines)-most))
	}
	return strings.Join(lines, "; ")
}

// live reports whether the volume can change while the pod runs.
func (mt *mount) live() bool {
	sources, _ := projection(mt.request.volume)
	for _, s := range sources {
		if k, _, _, ok := objectOf(mt.request.pod.Namespace, s); ok {
			if ref := mt.refs[k]; ref != nil {
				if o := ref.Last(); o != nil && o.Found && o.Immutable {
					continue
				}
			}
			return true
		}
		if s.DownwardAPI == nil || changeable(s.DownwardAPI.Items) {
			return true
		}
	}
	return false
}
