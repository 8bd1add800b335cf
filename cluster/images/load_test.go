package images

import (
	"bytes"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/log"
	"github.com/containerd/platforms"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/opencontainers/go-digest"
)

func TestMain(m *testing.M) {
	// containerd's content store warns of each directory without fs-verity.
	if err := log.SetLevel("error"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

func TestNormalize(t *testing.T) {
	sha := "sha256:" + strings.Repeat("a", 64)
	for given, want := range map[string]string{
		"mysql":                              "docker.io/library/mysql:latest",
		"mysql:8":                            "docker.io/library/mysql:8",
		"team/app:1":                         "docker.io/team/app:1",
		"orlop.io/test/busybox:1":            "orlop.io/test/busybox:1",
		"localhost:5000/a":                   "localhost:5000/a:latest",
		"mysql:8@" + sha:                     "docker.io/library/mysql@" + sha,
		"index.docker.io/library/mysql:8":    "docker.io/library/mysql:8",
		"docker.io/library/mysql:8.0.36-deb": "docker.io/library/mysql:8.0.36-deb",
	} {
		if got, err := Normalize(given); err != nil || got != want {
			t.Errorf("Normalize(%q) = %q, %v; want %q", given, got, err, want)
		}
	}
	for _, bad := range []string{"", "MySQL:8", "a b", "mysql:", "x@sha256:12"} {
		if got, err := Normalize(bad); err == nil {
			t.Errorf("Normalize(%q) = %q, want an error", bad, got)
		} else if !strings.Contains(err.Error(), "image name") {
			t.Errorf("Normalize(%q) does not say what is wrong: %v", bad, err)
		}
	}
}

// labelStore keeps a content store's labels in memory.
type labelStore struct {
	mu     sync.Mutex
	labels map[digest.Digest]map[string]string
}

func (s *labelStore) Get(d digest.Digest) (map[string]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.labels[d]), nil
}

func (s *labelStore) Set(d digest.Digest, labels map[string]string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.labels[d] = maps.Clone(labels)
	return nil
}

func (s *labelStore) Update(d digest.Digest, update map[string]string) (map[string]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.labels[d] == nil {
		s.labels[d] = map[string]string{}
	}
	maps.Copy(s.labels[d], update)
	return maps.Clone(s.labels[d]), nil
}

// loadFile loads an archive into an empty content store and returns digests by name, and the store's labels.
func loadFile(t *testing.T, path string) (map[string]string, *labelStore, error) {
	t.Helper()
	labels := &labelStore{labels: map[digest.Digest]map[string]string{}}
	store, err := local.NewLabeledStore(t.TempDir(), labels)
	if err != nil {
		t.Fatal(err)
	}
	archive, err := openArchive(path)
	if err != nil {
		return nil, labels, err
	}
	defer func() {
		if err := archive.Close(); err != nil {
			t.Error(err)
		}
	}()
	found, err := load(t.Context(), store, archive, platforms.Default())
	got := map[string]string{}
	for _, img := range found {
		got[img.Name] = img.Target.Digest.String()
	}
	return got, labels, err
}

func TestLoad(t *testing.T) {
	img := imageOf(t, here, map[string]string{"hello": "world"})
	other := imageOf(t, v1.Platform{OS: "linux", Architecture: "s390x"}, map[string]string{"hello": "other"})
	both := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &here}},
		mutate.IndexAddendum{Add: other, Descriptor: v1.Descriptor{
			Platform: &v1.Platform{OS: "linux", Architecture: "s390x"}}})
	bothDigest, err := both.Digest()
	if err != nil {
		t.Fatal(err)
	}
	layers, err := other.Layers()
	if err != nil {
		t.Fatal(err)
	}
	otherLayer, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	notOther := func(path string) bool { return strings.HasSuffix(path, otherLayer.Hex) }
	docker := dockerArchive(t, "mysql:8", img)
	full := named("docker.io/library/mysql:8")

	for _, c := range []struct {
		name string
		data []byte
		want map[string]string // an empty digest matches any
	}{
		{"docker", docker, map[string]string{"docker.io/library/mysql:8": ""}},
		{"docker gzip", gzipped(t, docker), map[string]string{"docker.io/library/mysql:8": ""}},
		{"docker zstd", zstded(t, docker), map[string]string{"docker.io/library/mysql:8": ""}},
		{"oci", ociArchive(t, nil, entry{img, full}),
			map[string]string{"docker.io/library/mysql:8": digestOf(t, img)}},
		{"oci with a short name", ociArchive(t, nil, entry{img, named("mysql:8")}),
			map[string]string{"docker.io/library/mysql:8": digestOf(t, img)}},
		{"oci with the name in containerd's annotation", ociArchive(t, nil, entry{img, map[string]string{
			"io.containerd.image.name":          "example.com/app:1",
			"org.opencontainers.image.ref.name": "1",
		}}), map[string]string{"example.com/app:1": digestOf(t, img)}},
		{"oci with two names", ociArchive(t, nil, entry{img, full}, entry{img, named("aa/bb:1")}), map[string]string{
			"docker.io/library/mysql:8": digestOf(t, img), "docker.io/aa/bb:1": digestOf(t, img)}},
		{"oci of two platforms", ociArchive(t, nil, entry{both, full}),
			map[string]string{"docker.io/library/mysql:8": bothDigest.String()}},
		{"oci of two platforms, saved for one", ociArchive(t, notOther, entry{both, full}),
			map[string]string{"docker.io/library/mysql:8": bothDigest.String()}},
		{"beside an image of another platform", ociArchive(t, nil, entry{img, full}, entry{other, named("aa/bb:1")}),
			map[string]string{"docker.io/library/mysql:8": digestOf(t, img)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, labels, err := loadFile(t, file(t, c.data))
			if err != nil {
				t.Fatal(err)
			}
			for name, digest := range got {
				if want, ok := c.want[name]; !ok || want != "" && want != digest {
					t.Errorf("unexpected image %s with %s", name, digest)
				}
				if len(labels.labels[parse(t, digest)]) == 0 {
					t.Errorf("%s keeps none of its content from the garbage collector", name)
				}
			}
			if len(got) != len(c.want) {
				t.Errorf("want %d images, got %v", len(c.want), got)
			}
		})
	}
}

func parse(t *testing.T, s string) digest.Digest {
	t.Helper()
	d, err := digest.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestLoadRefuses(t *testing.T) {
	img := imageOf(t, here, map[string]string{"hello": "world"})
	other := imageOf(t, v1.Platform{OS: "linux", Architecture: "s390x"}, map[string]string{"hello": "other"})
	docker := dockerArchive(t, "mysql:8", img)
	full := named("docker.io/library/mysql:8")
	gz := gzipped(t, docker)
	broken := bytes.Clone(gz)
	broken[len(broken)-6] ^= 0xff // in the checksum
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	layer, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}

	for _, c := range []struct {
		name string
		data []byte
		want error
		says string
	}{
		{"nothing", nil, ErrNotArchive, "image.tar"},
		{"text", []byte(strings.Repeat("no tar file\n", 100)), ErrNotArchive, "image.tar"},
		{"a tar of something else", tarOf(t, map[string]string{"a": "b"}), ErrNotArchive, "unrecognized"},
		{"a truncated tar", docker[:len(docker)/1024*512+100], ErrNotArchive, "unexpected EOF"},
		{"a truncated gzip", gz[:len(gz)-4], ErrNotArchive, "unexpected EOF"},
		{"a wrong checksum", broken, ErrNotArchive, "checksum"},
		{"gzip of text", gzipped(t, []byte("no tar file")), ErrNotArchive, "image.tar"},
		{"gzip's magic alone", []byte{0x1f, 0x8b}, ErrNotArchive, "image.tar"},
		{"zstd's magic alone", []byte{0x28, 0xb5, 0x2f, 0xfd}, ErrNotArchive, "image.tar"},
		{"a manifest that is none", tarOf(t, map[string]string{"manifest.json": "{}"}), ErrNotArchive, "manifest.json"},
		{"a later layout", tarOf(t, map[string]string{"oci-layout": `{"imageLayoutVersion":"9"}`}),
			ErrNotArchive, "version 9"},
		{"an index that is none", tarOf(t, map[string]string{
			"oci-layout": `{"imageLayoutVersion":"1.0.0"}`, "index.json": "[]"}), ErrNotArchive, "index.json"},
		{"another platform", dockerArchive(t, "mysql:8", other), ErrPlatform, "linux/s390x"},
		{"another platform, oci", ociArchive(t, nil, entry{other, full}), ErrPlatform, "mysql:8 is for linux/s390x"},
		{"no name", ociArchive(t, nil, entry{img, nil}), ErrNoName, "save it under one"},
		{"only a tag", ociArchive(t, nil, entry{img, named("8")}), ErrNoName, "save it under one"},
		{"a missing layer", ociArchive(t, func(p string) bool { return strings.HasSuffix(p, layer.Hex) },
			entry{img, full}), ErrIncomplete, layer.String()},
		{"a missing manifest", ociArchive(t, func(p string) bool {
			return strings.HasSuffix(p, strings.TrimPrefix(digestOf(t, img), "sha256:"))
		}, entry{img, full}), ErrIncomplete, digestOf(t, img)},
		{"a malformed name", ociArchive(t, nil, entry{img, named("My/SQL:8")}), nil, `"My/SQL:8"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, _, err := loadFile(t, file(t, c.data))
			if err == nil {
				t.Fatalf("want an error, got %v", got)
			}
			if c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("want %q, got %v", c.want, err)
			}
			if !strings.Contains(err.Error(), c.says) {
				t.Errorf("want an error that says %q, got %v", c.says, err)
			}
		})
	}
}

func TestOpenRefuses(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "none.tar")
	if _, err := openArchive(missing); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), missing) {
		t.Errorf("a missing file: %v", err)
	}
	if _, err := openArchive(t.TempDir()); !errors.Is(err, ErrNotArchive) ||
		!strings.Contains(err.Error(), "directory") {
		t.Errorf("a directory: %v", err)
	}
}
