package versions

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/tools/cache"

	"github.com/orlop-io/orlop/configsync/payload"
	"github.com/orlop-io/orlop/configsync/source"
)

// fieldManager owns the annotation that the controller writes.
const fieldManager = "orlop-versions"

// watch makes the informer of the labelled objects of one kind, whose events fill the queue.
func (c *Controller) watch(kind payload.Kind, resource schema.GroupVersionResource) (cache.SharedIndexInformer, error) {
	informer := metadatainformer.NewFilteredMetadataInformer(c.metadata, resource, metav1.NamespaceAll, 0, cache.Indexers{},
		func(o *metav1.ListOptions) { o.LabelSelector = LabelCollect + "=" + CollectUnused }).Informer()
	if err := informer.SetTransform(bare); err != nil {
		return nil, err
	}
	refused := false // the reflector's goroutine alone sees it
	err := informer.SetWatchErrorHandlerWithContext(func(ctx context.Context, r *cache.Reflector, err error) {
		if !apierrors.IsForbidden(err) {
			cache.DefaultWatchErrorHandler(ctx, r, err)
			return
		}
		if !refused {
			refused = true
			c.log.Info("Old versions are not collected: the controller may not read them", "kind", kind, "err", err)
		}
	})
	if err != nil {
		return nil, err
	}
	add := func(object any) {
		if gone, ok := object.(cache.DeletedFinalStateUnknown); ok {
			object = gone.Obj
		}
		if o, ok := object.(*metav1.PartialObjectMetadata); ok {
			c.queue.Add(source.Key{Kind: kind, Namespace: o.Namespace, Name: o.Name})
		}
	}
	_, err = informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: add, UpdateFunc: func(_, o any) { add(o) }, DeleteFunc: add,
	})
	return informer, err
}

// bare keeps what decisions are made by. Above all it drops the annotation in which kubectl apply keeps the whole manifest:
// of a Secret, that is its content.
func bare(object any) (any, error) {
	o, ok := object.(*metav1.PartialObjectMetadata)
	if !ok {
		return object, nil
	}
	kept := &metav1.PartialObjectMetadata{TypeMeta: o.TypeMeta, ObjectMeta: metav1.ObjectMeta{
		Name: o.Name, Namespace: o.Namespace, UID: o.UID, ResourceVersion: o.ResourceVersion,
		CreationTimestamp: o.CreationTimestamp, DeletionTimestamp: o.DeletionTimestamp,
	}}
	if value, ok := o.Labels[LabelCollect]; ok {
		kept.Labels = map[string]string{LabelCollect: value}
	}
	for _, name := range []string{AnnotationAfter, AnnotationSince} {
		if value, ok := o.Annotations[name]; ok {
			if kept.Annotations == nil {
				kept.Annotations = map[string]string{}
			}
			kept.Annotations[name] = value
		}
	}
	return kept, nil
}

// mark notes on the object that it is unused since now. One that is not immutable is no version of anything.
func (c *Controller) mark(ctx context.Context, key source.Key, object *metav1.PartialObjectMetadata, grace time.Duration) error {
	live, err := c.immutable(ctx, key)
	if err != nil {
		return err
	}
	if live == nil {
		c.warn(key, object, "NotCollected", fmt.Sprintf("label %s=%s is for immutable objects, and this one is not: "+
			"set immutable: true, or remove the label", LabelCollect, CollectUnused))
		return nil
	}
	since := time.Now().UTC().Format(time.RFC3339)
	if err := c.annotate(ctx, key, object, &since); err != nil {
		return err
	}
	c.log.V(2).Info("Unused", "object", key, "collectedAfter", grace)
	return nil
}

// annotate sets AnnotationSince on the object, or takes it off. The object must still be the same one, or it is a conflict.
func (c *Controller) annotate(ctx context.Context, key source.Key, object *metav1.PartialObjectMetadata, since *string) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": object.UID, "annotations": map[string]*string{AnnotationSince: since},
	}})
	if err != nil {
		return err
	}
	_, err = c.metadata.Resource(resources[key.Kind]).Namespace(key.Namespace).Patch(ctx, key.Name, types.MergePatchType, patch,
		metav1.PatchOptions{FieldManager: fieldManager})
	if apierrors.IsNotFound(err) {
		return nil // its deletion is on the way
	}
	if err != nil {
		return fmt.Errorf("annotate %s: %w", key, err)
	}
	return nil
}

// mustBeImmutable is a patch that fails on objects that are not, and changes none.
var mustBeImmutable = []byte(`[{"op":"test","path":"/immutable","value":true}]`)

// immutable returns the metadata of an object as it is now if the object is immutable, and nil if it is not.
func (c *Controller) immutable(ctx context.Context, key source.Key) (*metav1.PartialObjectMetadata, error) {
	live, err := c.metadata.Resource(resources[key.Kind]).Namespace(key.Namespace).Patch(ctx, key.Name, types.JSONPatchType,
		mustBeImmutable, metav1.PatchOptions{FieldManager: fieldManager, DryRun: []string{metav1.DryRunAll}})
	switch {
	case apierrors.IsInvalid(err):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("ask whether %s is immutable: %w", key, err)
	}
	return live, nil
}

// notice is what was told of an object.
type notice struct {
	uid     types.UID
	message string
}

// warn tells an object's owner what keeps it from being collected, once.
func (c *Controller) warn(key source.Key, object *metav1.PartialObjectMetadata, reason, message string) {
	n := notice{object.UID, message}
	if c.told[key] == n {
		return
	}
	c.told[key] = n
	c.recorder.Event(eventOn(key, object.UID), corev1.EventTypeWarning, reason, message)
}

// eventOn is the object as events name it.
func eventOn(key source.Key, uid types.UID) *corev1.ObjectReference {
	return &corev1.ObjectReference{
		APIVersion: corev1.SchemeGroupVersion.String(), Kind: string(key.Kind), Namespace: key.Namespace, Name: key.Name, UID: uid,
	}
}
