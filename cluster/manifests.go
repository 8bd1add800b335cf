package cluster

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"text/template"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"

	"github.com/orlop-io/orlop/deploy"
)

//go:embed manifests/*.yaml
var ownManifests embed.FS

// fieldManager owns what the cluster applies.
const fieldManager = "orlop"

// manifests are the objects every start applies.
func (c *Cluster) manifests() ([]*unstructured.Unstructured, error) {
	values := map[string]any{
		"DNSUser": userDNS, "DNSIP": c.net.dnsIP(), "DNSPort": dnsPort, "NodeIP": c.net.NodeIP, "Node": c.Node,
	}
	objects, err := readManifests(ownManifests, "manifests", values)
	if err != nil || c.state.Plain {
		return objects, err
	}
	base, err := readManifests(deploy.Base, "base", nil)
	if err != nil {
		return nil, err
	}
	local, err := readManifests(deploy.Local, "local", nil)
	return slices.Concat(objects, base, local), err
}

// readManifests decodes every object of every file in dir; with values the files are templates.
func readManifests(fsys fs.FS, dir string, values map[string]any) ([]*unstructured.Unstructured, error) {
	files, err := fs.ReadDir(fsys, dir)
	if err != nil {
		return nil, err
	}
	var objects []*unstructured.Unstructured
	for _, f := range files {
		if f.Name() == "kustomization.yaml" {
			continue
		}
		data, err := fs.ReadFile(fsys, path.Join(dir, f.Name()))
		if err != nil {
			return nil, err
		}
		if values != nil {
			t, err := template.New(f.Name()).Option("missingkey=error").Parse(string(data))
			if err != nil {
				return nil, err
			}
			var b bytes.Buffer
			if err := t.Execute(&b, values); err != nil {
				return nil, err
			}
			data = b.Bytes()
		}
		more, err := decode(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.Name(), err)
		}
		objects = append(objects, more...)
	}
	return objects, nil
}

func decode(data []byte) ([]*unstructured.Unstructured, error) {
	var objects []*unstructured.Unstructured
	d := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(data), 4096)
	for {
		o := &unstructured.Unstructured{}
		if err := d.Decode(&o.Object); errors.Is(err, io.EOF) {
			return objects, nil
		} else if err != nil {
			return nil, err
		}
		if len(o.Object) > 0 {
			objects = append(objects, o)
		}
	}
}

// apply brings the objects to the cluster: namespaces first, the rest side by side.
func (c *Cluster) apply(ctx context.Context, objects []*unstructured.Unstructured) error {
	client, err := dynamic.NewForConfig(c.config)
	if err != nil {
		return err
	}
	for _, namespaces := range []bool{true, false} {
		group, ctx := errgroup.WithContext(ctx)
		for _, o := range objects {
			if (o.GetKind() == "Namespace") == namespaces {
				group.Go(func() error { return applyOne(ctx, client, o) })
			}
		}
		if err := group.Wait(); err != nil {
			return err
		}
	}
	return nil
}

func applyOne(ctx context.Context, client dynamic.Interface, o *unstructured.Unstructured) error {
	// Every kind applied here is built in, and the plural of its name regular: no discovery is needed.
	gvr, _ := meta.UnsafeGuessKindToResource(o.GroupVersionKind())
	var resource dynamic.ResourceInterface = client.Resource(gvr)
	if ns := o.GetNamespace(); ns != "" {
		resource = client.Resource(gvr).Namespace(ns)
	}
	var err error
	if o.GetKind() == "StorageClass" {
		// What a user made of it (the default class is another, say) is kept.
		_, err = resource.Create(ctx, o, metav1.CreateOptions{FieldManager: fieldManager})
		if apierrors.IsAlreadyExists(err) {
			err = nil
		}
	} else {
		_, err = resource.Apply(ctx, o.GetName(), o, metav1.ApplyOptions{FieldManager: fieldManager, Force: true})
	}
	if err != nil {
		return fmt.Errorf("applying %s %s: %w", o.GetKind(), o.GetName(), err)
	}
	return nil
}
