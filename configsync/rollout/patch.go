package rollout

import (
	"context"
	"encoding/json"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// patch writes the baseline, or takes it away where it is nil, and with a hash rolls the workload. It changes nothing else,
// and fails with a conflict where the workload is not as it was read.
func (c *Controller) patch(ctx context.Context, w *workload, observed, hash *string) error {
	type object map[string]any
	change := object{"metadata": object{
		"uid": w.UID, "resourceVersion": w.ResourceVersion, "annotations": object{AnnotationObserved: observed},
	}}
	if hash != nil {
		change["spec"] = object{"template": object{"metadata": object{"annotations": object{AnnotationHash: *hash}}}}
	}
	body, err := json.Marshal(change)
	if err != nil {
		return err
	}
	apps, options := c.client.AppsV1(), metav1.PatchOptions{FieldManager: fieldManager}
	switch k := kind(w.Kind); k {
	case deployment:
		_, err = apps.Deployments(w.Namespace).Patch(ctx, w.Name, types.MergePatchType, body, options)
	case statefulSet:
		_, err = apps.StatefulSets(w.Namespace).Patch(ctx, w.Name, types.MergePatchType, body, options)
	case daemonSet:
		_, err = apps.DaemonSets(w.Namespace).Patch(ctx, w.Name, types.MergePatchType, body, options)
	default:
		err = fmt.Errorf("%s is no kind of workload", k)
	}
	return err
}
