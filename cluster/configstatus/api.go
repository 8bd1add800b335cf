package configstatus

import (
	"context"
	"encoding/json"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"

	"github.com/orlop-io/orlop/configsync/payload"
)

// API asks the API server.
type API struct {
	Client   kubernetes.Interface
	Metadata metadata.Interface
	// Node is the name of the node whose pods are asked for.
	Node string
}

// key names an object.
type key struct {
	kind            payload.Kind
	namespace, name string
}

// resources are the resources of the objects that volumes show.
var resources = map[payload.Kind]string{payload.ConfigMap: "configmaps", payload.Secret: "secrets"}

// pods returns the pods of the node, of all namespaces: what is not among them is gone.
func (a API) pods(ctx context.Context) ([]corev1.Pod, error) {
	list, err := a.Client.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + a.Node})
	if err != nil {
		return nil, err
	}
	return list.Items, nil
}

// objects returns the metadata of all ConfigMaps and Secrets of the namespaces.
func (a API) objects(ctx context.Context, namespaces []string) (map[key]*metav1.ObjectMeta, error) {
	found := map[key]*metav1.ObjectMeta{}
	for kind, resource := range resources {
		for _, namespace := range namespaces {
			list, err := a.Metadata.Resource(corev1.SchemeGroupVersion.WithResource(resource)).Namespace(namespace).
				List(ctx, metav1.ListOptions{})
			if err != nil {
				return nil, err
			}
			for i := range list.Items {
				meta := &list.Items[i].ObjectMeta
				found[key{kind, meta.Namespace, meta.Name}] = meta
			}
		}
	}
	return found, nil
}

// edited returns when an object's content was last changed by a client that still owns a part of it, to the second, by
// what the API server notes for server-side apply. That a key was removed by a client that owns no other is not among
// it. It is the zero time where nothing is noted.
func edited(meta *metav1.ObjectMeta) time.Time {
	last := time.Time{}
	for _, entry := range meta.ManagedFields {
		if entry.Time == nil || entry.FieldsV1 == nil || !entry.Time.After(last) {
			continue
		}
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(entry.FieldsV1.GetRawBytes(), &fields); err != nil {
			continue // of a format to come
		}
		for _, content := range []string{"f:data", "f:binaryData"} {
			if _, ok := fields[content]; ok {
				last = entry.Time.Time
			}
		}
	}
	return last
}
