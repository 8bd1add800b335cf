package configstatus

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/kubernetes/pkg/fieldpath"

	"github.com/orlop-io/orlop/configsync/payload"
)

// judge compares what a volume shows with what the manifest asks for and the API has.
func judge(v *Volume, m mounted, s source, pod *corev1.Pod, objects map[key]*metav1.ObjectMeta) {
	var behind []string
	shown := map[key]bool{}
	for i := range v.Objects {
		o := &v.Objects[i]
		shown[key{o.Kind, o.Namespace, o.Name}] = true
		if o.Kind == payload.Pod {
			o.State, o.Message = fields(m, s, pod)
		} else {
			judgeObject(o, objects[key{o.Kind, o.Namespace, o.Name}])
		}
		if o.State == Behind {
			behind = append(behind, o.Message)
		}
	}
	for _, r := range s.references {
		meta := objects[r.key]
		switch {
		case shown[r.key] || meta == nil && r.optional:
		case meta == nil:
			behind = append(behind, fmt.Sprintf("there is no %s %s", r.key.kind, r.key.name))
		default:
			behind = append(behind, fmt.Sprintf("%s %s is not shown yet", r.key.kind, r.key.name))
		}
	}
	v.State = Current
	if len(behind) > 0 {
		v.State, v.Message = Behind, strings.Join(slices.Compact(behind), "; ")
	}
}

// judgeObject compares the version that files agree with and that of the API, nil where the API has no such object.
func judgeObject(o *Object, meta *metav1.ObjectMeta) {
	o.State = Current
	what := fmt.Sprintf("%s %s", o.Kind, o.Name)
	switch {
	case meta == nil:
		o.State, o.Message = Behind, what+" was deleted"
	case string(meta.UID) != o.UID:
		o.State, o.Present, o.Message = Behind, meta.ResourceVersion, what+" was deleted and made again"
	case o.Immutable || meta.ResourceVersion == o.ResourceVersion:
	default:
		// The API was asked before the volume was read, which may be ahead.
		if order, err := resourceversion.CompareResourceVersion(meta.ResourceVersion, o.ResourceVersion); err == nil && order < 0 {
			return
		}
		o.State, o.Present = Behind, meta.ResourceVersion
		o.Message = fmt.Sprintf("%s is at version %s", what, meta.ResourceVersion)
	}
}

// localAnnotations are added by the kubelet to its own copy of a pod; the API does not have them.
const localAnnotations = "kubernetes.io/config."

// fields compares the files that show a pod's labels and annotations with those that the API has.
func fields(m mounted, s source, pod *corev1.Pod) (State, string) {
	for _, item := range s.fields {
		if item.FieldRef == nil {
			continue
		}
		field, subscript, _ := fieldpath.SplitMaybeSubscriptedPath(item.FieldRef.FieldPath)
		if (field != "metadata.labels" && field != "metadata.annotations") || strings.HasPrefix(subscript, localAnnotations) {
			continue
		}
		want, err := fieldpath.ExtractFieldPathAsString(pod, item.FieldRef.FieldPath)
		if err != nil {
			return Unknown, err.Error()
		}
		got, err := m.read(item.Path)
		if err != nil {
			return Behind, err.Error()
		}
		if subscript == "" {
			got = withoutLocal(got)
		}
		if got != want {
			return Behind, fmt.Sprintf("the pod's %s changed", strings.TrimPrefix(field, "metadata."))
		}
	}
	return Current, ""
}

// withoutLocal leaves the kubelet's own annotations out of a file that lists all.
func withoutLocal(list string) string {
	lines := strings.Split(list, "\n")
	return strings.Join(slices.DeleteFunc(lines, func(line string) bool { return strings.HasPrefix(line, localAnnotations) }), "\n")
}

// read returns a file of the visible generation. It never leaves the volume.
func (m mounted) read(file string) (_ string, err error) {
	root, err := os.OpenRoot(filepath.Join(m.path, m.generation.Name))
	if err != nil {
		return "", fmt.Errorf("configuration volume: %w", err)
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	raw, err := root.ReadFile(path.Clean(file))
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("there is no file %s", file)
	}
	return string(raw), err
}
