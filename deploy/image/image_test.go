package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/layout"
)

// program compiles a small one in that environment.
func program(t *testing.T, env ...string) string {
	t.Helper()
	dir := t.TempDir()
	source := filepath.Join(dir, "main.go")
	text := "package main\n\nfunc main() {}\n"
	if slices.Contains(env, "CGO_ENABLED=1") {
		text = "package main\n\nimport \"C\"\n\nfunc main() {}\n"
	}
	if err := os.WriteFile(source, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "program")
	cmd := exec.Command("go", "build", "-o", out, source)
	cmd.Env = append(os.Environ(), env...)
	if message, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, message)
	}
	return out
}

// unpack writes a tar stream's files into a directory, and lists them.
func unpack(t *testing.T, stream io.Reader) (dir string, names []string) {
	t.Helper()
	dir = t.TempDir()
	for r := tar.NewReader(stream); ; {
		hdr, err := r.Next()
		if errors.Is(err, io.EOF) {
			return dir, names
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		target := filepath.Join(dir, hdr.Name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(target), 0o755),
			os.WriteFile(target, data, hdr.FileInfo().Mode())); err != nil {
			t.Fatal(err)
		}
		names = append(names, hdr.Name)
	}
}

// Another implementation reads the image, which holds the program alone and runs it as nobody.
func TestImage(t *testing.T) {
	static := program(t, "CGO_ENABLED=0")
	out := filepath.Join(t.TempDir(), "image.tar")
	write := func() []byte {
		if err := run([]string{"-name", "example.com/a:1", "-o", out, static}, io.Discard); err != nil {
			t.Fatal(err)
		}
		archive, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		return archive
	}
	archive := write()
	if !bytes.Equal(archive, write()) {
		t.Error("the same program is not the same bytes")
	}
	dir, _ := unpack(t, bytes.NewReader(archive))
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	manifests, err := index.IndexManifest()
	if err != nil || len(manifests.Manifests) != 1 ||
		manifests.Manifests[0].Annotations["org.opencontainers.image.ref.name"] != "example.com/a:1" {
		t.Fatalf("the index holds %v, %v", manifests, err)
	}
	img, err := index.Image(manifests.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil || !slices.Equal(config.Config.Entrypoint, []string{"/orlop-storage"}) || config.Config.User != "65532:65532" {
		t.Errorf("the configuration is %+v, %v", config, err)
	}
	layers, err := img.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("layers: %v, %v", layers, err)
	}
	content, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	root, names := unpack(t, content)
	if err := content.Close(); err != nil {
		t.Error(err)
	}
	if !slices.Equal(names, []string{"orlop-storage"}) {
		t.Errorf("the image holds %v", names)
	}
	if out, err := exec.Command(filepath.Join(root, "orlop-storage")).CombinedOutput(); err != nil {
		t.Errorf("the program in the image does not run: %v\n%s", err, out)
	}
}

func TestArchitecture(t *testing.T) {
	for _, arch := range []string{"amd64", "arm64"} {
		data, err := os.ReadFile(program(t, "CGO_ENABLED=0", "GOARCH="+arch))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := architecture(data); err != nil || got != arch {
			t.Errorf("a program for %s is one for %q, %v", arch, got, err)
		}
	}
}

func TestRefuses(t *testing.T) {
	dir := t.TempDir()
	text := filepath.Join(dir, "text")
	if err := os.WriteFile(text, []byte("no program"), 0o600); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "out.tar")
	for says, program := range map[string]string{
		"linked dynamically":        program(t, "CGO_ENABLED=1"),
		"no program for Linux":      text,
		"EM_386":                    program(t, "CGO_ENABLED=0", "GOARCH=386"),
		"no such file or directory": filepath.Join(dir, "none"),
	} {
		err := run([]string{"-name", "a:1", "-o", out, program}, io.Discard)
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("error %v, want one that says %q", err, says)
		}
	}
	if _, err := os.Stat(out); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an archive was written: %v", err)
	}
}
