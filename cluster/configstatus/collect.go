package configstatus

import (
	"cmp"
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/orlop-io/orlop/configsync/payload"
)

// Filter chooses pods. Empty fields choose all.
type Filter struct{ Namespace, Pod string }

func (f Filter) chooses(namespace, pod string) bool {
	return (f.Namespace == "" || f.Namespace == namespace) && (f.Pod == "" || f.Pod == pod)
}

// Report reads the node's volumes and compares them with the API. Where the API server cannot be asked, the report tells
// what is on the node and why that is all; an error is one of the node's own files.
func (n Node) Report(ctx context.Context, api API, f Filter) (*Report, error) {
	r := &Report{Volumes: []Volume{}, Fixed: []Fixed{}}
	// The API first: what is written meanwhile is then ahead of it, and never falsely behind.
	pods, objects, err := ask(ctx, api, f)
	if err != nil {
		r.Failure = err.Error()
	}
	r.Compared = err == nil
	on, err := n.volumes()
	if err != nil {
		return nil, err
	}
	for i := range pods {
		pod := &pods[i]
		for j := range pod.Spec.Volumes {
			if s, ok := sourceOf(pod.Namespace, &pod.Spec.Volumes[j]); ok {
				vid := id{uidOnNode(pod), pod.Spec.Volumes[j].Name}
				m, there := on[vid]
				delete(on, vid)
				if f.chooses(pod.Namespace, pod.Name) && (there || !ended(pod)) {
					r.Volumes = append(r.Volumes, ofPod(pod, vid, s, m, objects))
				}
			}
		}
		if f.chooses(pod.Namespace, pod.Name) {
			r.Fixed = append(r.Fixed, fixed(pod, objects)...)
		}
	}
	known, err := n.podNames()
	if err != nil {
		return nil, err
	}
	for vid, m := range on {
		v := ofNobody(vid, m, known[vid.podUID], r.Compared)
		if f.chooses(v.Namespace, v.Pod) {
			r.Volumes = append(r.Volumes, v)
		}
	}
	slices.SortFunc(r.Volumes, func(a, b Volume) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Pod, b.Pod), cmp.Compare(a.PodUID, b.PodUID),
			cmp.Compare(a.Name, b.Name))
	})
	slices.SortStableFunc(r.Fixed, func(a, b Fixed) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Pod, b.Pod))
	})
	return r, nil
}

// ask returns the node's pods and the objects that those of the filter refer to.
func ask(ctx context.Context, api API, f Filter) ([]corev1.Pod, map[key]*metav1.ObjectMeta, error) {
	pods, err := api.pods(ctx)
	if err != nil {
		return nil, nil, err
	}
	namespaces := []string{metav1.NamespaceAll}
	if f.Namespace != "" {
		namespaces = []string{f.Namespace}
		// A CSI volume may show an object of another namespace.
		for i := range pods {
			for j := range pods[i].Spec.Volumes {
				s, _ := sourceOf(pods[i].Namespace, &pods[i].Spec.Volumes[j])
				for _, r := range s.references {
					if pods[i].Namespace == f.Namespace && !slices.Contains(namespaces, r.key.namespace) {
						namespaces = append(namespaces, r.key.namespace)
					}
				}
			}
		}
	}
	objects, err := api.objects(ctx, namespaces)
	if err != nil {
		return nil, nil, err
	}
	return pods, objects, nil
}

func ended(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// ofPod is a volume of a pod that the API has.
func ofPod(pod *corev1.Pod, vid id, s source, m mounted, objects map[key]*metav1.ObjectMeta) Volume {
	v := volume(vid, m)
	v.Namespace, v.Pod, v.Kind = pod.Namespace, pod.Name, s.kind
	switch {
	case m.err != nil:
		v.State, v.Message = Unknown, m.err.Error()
	case !m.visible:
		v.State, v.Message = Pending, "not set up yet"
		for _, r := range s.references {
			if objects[r.key] == nil && !r.optional {
				v.Message += "; there is no " + string(r.key.kind) + " " + r.key.name
			}
		}
	case !m.generation.Noted:
		v.State, v.Message = Unknown, "written by upstream's plugin, which does not note versions"
	default:
		judge(&v, m, s, pod, objects)
	}
	return v
}

// ofNobody is a volume whose pod the API does not have, or where it could not be asked.
func ofNobody(vid id, m mounted, name [2]string, compared bool) Volume {
	v := volume(vid, m)
	v.Namespace, v.Pod, v.Kind = name[0], name[1], m.kind
	for _, o := range v.Objects {
		if v.Namespace == "" && m.kind != "csi" {
			v.Namespace = o.Namespace
		}
		if v.Pod == "" && o.Kind == payload.Pod {
			v.Namespace, v.Pod = o.Namespace, o.Name
		}
	}
	v.State = Unknown
	switch {
	case m.err != nil:
		v.Message = m.err.Error()
	case compared:
		v.State, v.Message = Gone, "the pod is gone, and the kubelet has not cleaned up yet"
	}
	return v
}

func volume(vid id, m mounted) Volume {
	v := Volume{PodUID: vid.podUID, Name: vid.volume, Path: m.path}
	if m.visible {
		v.Generation, v.Since = m.generation.Name, m.generation.Time()
	}
	for _, version := range m.generation.Objects {
		v.Objects = append(v.Objects, Object{Version: version, State: Unknown})
	}
	return v
}
