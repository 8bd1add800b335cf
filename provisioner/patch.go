package provisioner

import (
	"context"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// patchSelectedNode sets the claim's selected node, or removes it when node is nil. It fails with a conflict when the
// claim is not in the version given.
func patchSelectedNode(
	ctx context.Context, client kubernetes.Interface, claim *corev1.PersistentVolumeClaim, node *string,
) error {
	return patchMeta(map[string]any{
		"uid":             claim.UID,
		"resourceVersion": claim.ResourceVersion,
		"annotations":     map[string]any{annSelectedNode: node},
	}, func(patch []byte) error {
		_, err := client.CoreV1().PersistentVolumeClaims(claim.Namespace).
			Patch(ctx, claim.Name, types.MergePatchType, patch, metav1.PatchOptions{})
		return err
	}, "claim "+claim.Namespace+"/"+claim.Name)
}

// patchFinalizer adds or removes our finalizer alone, whatever other controllers do to the list at the same time.
func patchFinalizer(ctx context.Context, client kubernetes.Interface, pv *corev1.PersistentVolume, add bool) error {
	key := "$deleteFromPrimitiveList/finalizers"
	if add {
		key = "finalizers"
	}
	return patchMeta(map[string]any{"uid": pv.UID, key: []string{FinalizerVolume}}, func(patch []byte) error {
		_, err := client.CoreV1().PersistentVolumes().
			Patch(ctx, pv.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
		return err
	}, "PersistentVolume "+pv.Name)
}

func patchMeta(metadata map[string]any, send func([]byte) error, what string) error {
	patch, err := json.Marshal(map[string]any{"metadata": metadata})
	if err == nil {
		err = send(patch)
	}
	if err != nil {
		return fmt.Errorf("patch %s: %w", what, err)
	}
	return nil
}
