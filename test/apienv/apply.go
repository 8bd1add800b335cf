package apienv

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/restmapper"
)

// Apply applies manifests of one or more YAML documents as an administrator, as `kubectl apply --server-side` does, in
// the order of the files and documents.
func (e *Env) Apply(ctx context.Context, files ...string) error {
	client, err := dynamic.NewForConfig(e.Config)
	if err != nil {
		return fmt.Errorf("apienv: %w", err)
	}
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(e.Client.Discovery()))
	for _, file := range files {
		if err := applyFile(ctx, client, mapper, file); err != nil {
			return fmt.Errorf("apienv: apply %s: %w", file, err)
		}
	}
	return nil
}

func applyFile(ctx context.Context, client dynamic.Interface, mapper meta.RESTMapper, file string) (err error) {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	for decoder := yaml.NewYAMLOrJSONDecoder(f, 4096); ; {
		var obj unstructured.Unstructured
		if err := decoder.Decode(&obj); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if len(obj.Object) == 0 {
			continue // an empty document
		}
		kind := obj.GroupVersionKind()
		mapping, err := mapper.RESTMapping(kind.GroupKind(), kind.Version)
		if err != nil {
			return err
		}
		var resource dynamic.ResourceInterface = client.Resource(mapping.Resource)
		if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
			resource = client.Resource(mapping.Resource).Namespace(obj.GetNamespace())
		}
		if _, err := resource.Apply(ctx, obj.GetName(), &obj,
			metav1.ApplyOptions{FieldManager: "apienv", Force: true}); err != nil {
			return fmt.Errorf("%s %s: %w", obj.GetKind(), obj.GetName(), err)
		}
	}
}
