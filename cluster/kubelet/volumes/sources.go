package volumes

import (
	"fmt"
	"strings"

	v1 "k8s.io/api/core/v1"

	"github.com/orlop-io/orlop/configsync/payload"
	"github.com/orlop-io/orlop/configsync/source"
)

// projection is a volume of any of the four kinds in the form of a projected one.
func projection(v v1.Volume) (sources []v1.VolumeProjection, defaultMode *int32) {
	switch {
	case v.ConfigMap != nil:
		return []v1.VolumeProjection{{ConfigMap: &v1.ConfigMapProjection{
			LocalObjectReference: v.ConfigMap.LocalObjectReference, Items: v.ConfigMap.Items, Optional: v.ConfigMap.Optional,
		}}}, v.ConfigMap.DefaultMode
	case v.Secret != nil:
		return []v1.VolumeProjection{{Secret: &v1.SecretProjection{
			LocalObjectReference: v1.LocalObjectReference{Name: v.Secret.SecretName}, Items: v.Secret.Items, Optional: v.Secret.Optional,
		}}}, v.Secret.DefaultMode
	case v.DownwardAPI != nil:
		return []v1.VolumeProjection{{DownwardAPI: &v1.DownwardAPIProjection{Items: v.DownwardAPI.Items}}}, v.DownwardAPI.DefaultMode
	case v.Projected != nil:
		return v.Projected.Sources, v.Projected.DefaultMode
	}
	return nil, nil
}

// objectOf returns the object of a source, and false for a source that has none.
func objectOf(namespace string, s v1.VolumeProjection) (_ source.Key, items []v1.KeyToPath, optional, ok bool) {
	switch {
	case s.ConfigMap != nil:
		return source.Key{Kind: payload.ConfigMap, Namespace: namespace, Name: s.ConfigMap.Name},
			s.ConfigMap.Items, isTrue(s.ConfigMap.Optional), true
	case s.Secret != nil:
		return source.Key{Kind: payload.Secret, Namespace: namespace, Name: s.Secret.Name},
			s.Secret.Items, isTrue(s.Secret.Optional), true
	}
	return source.Key{}, nil, false, false
}

func isTrue(b *bool) bool { return b != nil && *b }

// subscribe refers to the objects of the volume, before it gives up those that the volume had earlier.
func (mt *mount) subscribe() {
	changed := func() { mt.manager.queue.Add(job{key: mt.key}) }
	sources, _ := projection(mt.request.volume)
	wanted := map[source.Key]*source.Ref{}
	followPod := false
	for _, s := range sources {
		if s.DownwardAPI != nil && changeable(s.DownwardAPI.Items) {
			followPod = true
		}
		k, _, _, ok := objectOf(mt.request.pod.Namespace, s)
		if !ok || wanted[k] != nil {
			continue
		}
		if wanted[k] = mt.refs[k]; wanted[k] == nil {
			wanted[k] = mt.manager.source.Acquire(k, changed)
		}
	}
	for k, ref := range mt.refs {
		if wanted[k] == nil {
			ref.Release()
		}
	}
	mt.refs = wanted
	if followPod && mt.podRef == nil {
		mt.podRef = mt.manager.pods.follow(mt.request.pod, changed)
	}
}

// changeable reports whether a file shows labels or annotations: all else of the downward API is either fixed while the
// pod runs or comes with the kubelet's own SetUp.
func changeable(items []v1.DownwardAPIVolumeFile) bool {
	for _, item := range items {
		if item.FieldRef != nil && (strings.HasPrefix(item.FieldRef.FieldPath, "metadata.labels") ||
			strings.HasPrefix(item.FieldRef.FieldPath, "metadata.annotations")) {
			return true
		}
	}
	return false
}

// payload collects the volume's sources, with objects from get, and decides its files.
func (mt *mount) payload(get func(*source.Ref) (*payload.Object, error)) (payload.Payload, error) {
	r := &mt.request
	sources, defaultMode := projection(r.volume)
	if defaultMode == nil {
		return payload.Payload{}, fmt.Errorf("volume %s has no default mode, which the API server always sets", mt.key.volume)
	}
	v := payload.Volume{DefaultMode: *defaultMode, FSGroup: r.args.FsGroup}
	for i, s := range sources {
		if k, items, optional, ok := objectOf(r.pod.Namespace, s); ok {
			object, err := get(mt.refs[k])
			if err != nil {
				return payload.Payload{}, err
			}
			v.Sources = append(v.Sources, payload.Source{Object: object, Items: paths(items), Optional: optional})
			continue
		}
		resolved, err := mt.resolve(i, s, *defaultMode)
		if err != nil {
			return payload.Payload{}, err
		}
		v.Sources = append(v.Sources, resolved)
	}
	return payload.Build(v)
}

func paths(items []v1.KeyToPath) []payload.Item {
	to := make([]payload.Item, len(items))
	for i, item := range items {
		to[i] = payload.Item{Key: item.Key, Path: item.Path, Mode: item.Mode}
	}
	return to
}
