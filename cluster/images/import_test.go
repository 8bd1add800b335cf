package images

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	criapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// client connects to the node for checks that the package has no call for.
func (n *node) client(t *testing.T) (context.Context, *runtimeClient) {
	t.Helper()
	ctx, client, err := connect(t.Context(), n.socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	})
	return ctx, client
}

func TestImport(t *testing.T) {
	n := startNode(t)
	ctx, client := n.client(t)
	first := imageOf(t, here, map[string]string{"hello": "world"})
	second := imageOf(t, here, map[string]string{"hello": "again"})

	var steps []string
	progress := func(line string) { steps = append(steps, line) }
	paths := []string{
		file(t, gzipped(t, dockerArchive(t, "mysql:8", first))),
		file(t, ociArchive(t, nil, entry{second, named("example.com/app:1")}, entry{second, named("b")},
			entry{second, named("cc/dd:2")})),
	}
	names, err := Import(ctx, n.socket, paths, progress)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"docker.io/library/mysql:8", "example.com/app:1", "docker.io/cc/dd:2"}
	if !slices.Equal(names, want) {
		t.Errorf("imported %v, want %v", names, want)
	}
	if text := strings.Join(steps, "\n"); !strings.Contains(text, "reading "+paths[1]) ||
		!strings.Contains(text, "unpacking docker.io/library/mysql:8") {
		t.Errorf("progress lacks a step:\n%s", text)
	}

	all, err := List(ctx, n.socket)
	if err != nil {
		t.Fatal(err)
	}
	var listed []string
	for _, img := range all {
		listed = append(listed, img.Name)
		if img.ID == "" || img.SizeBytes == 0 || !img.Pinned {
			t.Errorf("listed as %+v", img)
		}
	}
	if sorted := slices.Sorted(slices.Values(want)); !slices.Equal(listed, sorted) {
		t.Errorf("listed %v, want %v", listed, sorted)
	}
	// As a pod's spec says it.
	status, err := client.cri.ImageStatus(ctx, &criapi.ImageStatusRequest{Image: &criapi.ImageSpec{Image: "mysql:8"}})
	if err != nil || status.GetImage() == nil {
		t.Errorf("the kubelet does not find mysql:8: %v, %v", status, err)
	}
	for _, name := range want {
		img, err := client.GetImage(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		if unpacked, err := img.IsUnpacked(ctx, ""); err != nil || !unpacked {
			t.Errorf("%s: unpacked %v, %v", name, unpacked, err)
		}
	}

	// The same name again, with other contents.
	if _, err := Import(ctx, n.socket, []string{file(t, dockerArchive(t, "example.com/app:1", first))}, nil); err != nil {
		t.Fatal(err)
	}
	if a, b := target(ctx, t, client, "example.com/app:1"), target(ctx, t, client, want[0]); a != b {
		t.Errorf("example.com/app:1 is %s after it was imported again, want %s", a, b)
	}
	leases, err := client.LeasesService().List(ctx)
	if err != nil || len(leases) > 0 {
		t.Errorf("leases left: %v, %v", leases, err)
	}
}

func target(ctx context.Context, t *testing.T, client *runtimeClient, name string) string {
	t.Helper()
	img, err := client.GetImage(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	return img.Target().Digest.String()
}

// A failed import leaves no image, no content and no lease, and what was imported before it stays.
func TestImportFails(t *testing.T) {
	n := startNode(t)
	ctx, client := n.client(t)
	good := file(t, dockerArchive(t, "good:1", imageOf(t, here, map[string]string{"a": "b"})))
	other := v1.Platform{OS: "linux", Architecture: "s390x"}
	foreign := file(t, dockerArchive(t, "foreign:1", imageOf(t, other, map[string]string{"c": "d"})))

	names, err := Import(ctx, n.socket, []string{good, foreign, good}, nil)
	if !errors.Is(err, ErrPlatform) || !strings.Contains(err.Error(), foreign) {
		t.Errorf("want ErrPlatform that names %s, got %v", foreign, err)
	}
	if !slices.Equal(names, []string{"docker.io/library/good:1"}) {
		t.Errorf("imported %v", names)
	}
	if _, err := client.GetImage(ctx, "docker.io/library/foreign:1"); err == nil {
		t.Error("the foreign image is registered")
	}

	canceled, cancel := context.WithCancel(ctx)
	_, err = Import(canceled, n.socket, []string{good}, func(string) { cancel() })
	if !errors.Is(err, context.Canceled) && !strings.Contains(err.Error(), "canceled") {
		t.Errorf("want Canceled, got %v", err)
	}
	leases, err := client.LeasesService().List(ctx)
	if err != nil || len(leases) > 0 {
		t.Errorf("leases left: %v, %v", leases, err)
	}

	kept := blobs(ctx, t, client)
	if err := client.ImageService().Delete(ctx, "docker.io/library/good:1"); err != nil {
		t.Fatal(err)
	}
	if kept == 0 {
		t.Error("no content is left of the good image")
	}
	missing := filepath.Join(t.TempDir(), "none.tar")
	if _, err := Import(ctx, n.socket, []string{missing}, nil); err == nil || !strings.Contains(err.Error(), missing) {
		t.Errorf("a missing file: %v", err)
	}
}

func blobs(ctx context.Context, t *testing.T, client *runtimeClient) int {
	t.Helper()
	count := 0
	err := client.ContentStore().Walk(ctx, func(content.Info) error { count++; return nil })
	if err != nil {
		t.Fatal(err)
	}
	return count
}

func TestNoRuntime(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "c.sock")
	_, importErr := Import(t.Context(), socket, []string{"x.tar"}, nil)
	_, listErr := List(t.Context(), socket)
	for _, err := range []error{importErr, listErr} {
		if !errors.Is(err, ErrNoRuntime) || !strings.Contains(err.Error(), "orlop up") {
			t.Errorf("want ErrNoRuntime with what to do, got %v", err)
		}
	}
}
