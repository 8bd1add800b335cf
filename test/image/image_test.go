package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"

	"github.com/orlop-io/orlop/deploy/image/oci"
)

func TestKept(t *testing.T) {
	keep := []string{"/usr/bin/mysql", "/lib/*/*.so*", "/usr/share/mysql/english/"}
	for name, want := range map[string]bool{
		"/usr/bin/mysql":                      true,
		"/usr/bin/mysqldump":                  false,
		"/lib/x86_64-linux-gnu/libc.so.6":     true,
		"/lib/x86_64-linux-gnu/a/libc.so.6":   false,
		"/usr/share/mysql/english/errmsg.sys": true,
		"/usr/share/mysql/german/errmsg.sys":  false,
		"/usr/share/mysql/english":            false,
	} {
		if got := kept(keep, name); got != want {
			t.Errorf("kept(%s) = %v", name, got)
		}
	}
}

// The layout is one that another implementation accepts, digests and all.
func TestArchive(t *testing.T) {
	spec := imageSpec{name: "example.com/a:1"}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	if err := add(w, &tar.Header{Typeflag: tar.TypeReg, Mode: 0o644, Size: 5}, "/etc/hello",
		strings.NewReader("world")); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "a.tar")
	write := func() []byte {
		var archive bytes.Buffer
		if err := oci.Write(&archive, spec.image(), bytes.NewReader(layer.Bytes())); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, archive.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		return archive.Bytes()
	}
	first := write()
	if !bytes.Equal(first, write()) {
		t.Error("the same image is not the same bytes")
	}
	if inputs, err := oci.ReadInputs(path); err != nil || inputs != spec.fingerprint() {
		t.Errorf("the archive's fingerprint is %q, %v", inputs, err)
	}

	dir := t.TempDir()
	files := tar.NewReader(bytes.NewReader(first))
	for {
		hdr, err := files.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(files)
		if err != nil {
			t.Fatal(err)
		}
		target := filepath.Join(dir, hdr.Name)
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(target, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	manifests, err := index.IndexManifest()
	if err != nil || len(manifests.Manifests) != 1 {
		t.Fatalf("the index holds %v, %v", manifests, err)
	}
	img, err := index.Image(manifests.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	sum, _, err := v1.SHA256(bytes.NewReader(layer.Bytes()))
	if err != nil || len(config.RootFS.DiffIDs) != 1 || config.RootFS.DiffIDs[0] != sum {
		t.Errorf("the layers are %v, %v; want %v", config.RootFS.DiffIDs, err, sum)
	}
	blob, err := os.ReadFile(filepath.Join(dir, "blobs/sha256", sum.Hex))
	if err != nil || !bytes.Equal(blob, layer.Bytes()) {
		t.Errorf("the layer's blob differs: %v", err)
	}
}

func TestReadInputsOfOtherFiles(t *testing.T) {
	dir := t.TempDir()
	other := filepath.Join(dir, "other")
	if err := os.WriteFile(other, []byte("no archive"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{other, filepath.Join(dir, "none")} {
		if inputs, err := oci.ReadInputs(path); err != nil || inputs != "" {
			t.Errorf("%s: %q, %v", path, inputs, err)
		}
	}
}

func TestFingerprintsDiffer(t *testing.T) {
	if kinds["mariadb"].fingerprint() == kinds["busybox"].fingerprint() {
		t.Error("two images have one fingerprint")
	}
}

func TestUsage(t *testing.T) {
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"-kind", "postgres", "-o", "x"}, ""},
		{nil, "-o FILE"},
		{[]string{"-o", "x", "y"}, "-o FILE"},
		{[]string{"-bogus"}, "-bogus"},
	} {
		var messages bytes.Buffer
		err := run(t.Context(), c.args, &messages)
		if err == nil || !strings.Contains(messages.String(), c.says) {
			t.Errorf("%q: %v, %s", c.args, err, &messages)
		}
		if c.says == "" && !strings.Contains(err.Error(), "busybox, mariadb") {
			t.Errorf("%q: %v names no choice", c.args, err)
		}
		if c.says != "" && !errors.Is(err, flag.ErrHelp) {
			t.Errorf("%q: %v", c.args, err)
		}
	}
}

func TestMissingTool(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	path := filepath.Join(t.TempDir(), "a.tar")
	err := run(t.Context(), []string{"-o", path, "-kind", "busybox"}, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "apt-get install mmdebstrap") {
		t.Errorf("without mmdebstrap: %v", err)
	}
	onlyFiles(t, filepath.Dir(path))
}

// fakeTool puts a program called mmdebstrap first on the path.
func fakeTool(t *testing.T, script string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "mmdebstrap"), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

// onlyFiles checks that a directory holds these files and no remains of a build.
func onlyFiles(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if !slices.Equal(got, want) {
		t.Errorf("%s holds %v, want %v", dir, got, want)
	}
}

func TestToolFails(t *testing.T) {
	fakeTool(t, "echo 'E: no such package' >&2; exit 7")
	path := filepath.Join(t.TempDir(), "a.tar")
	err := run(t.Context(), []string{"-o", path, "-kind", "busybox"}, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "E: no such package") {
		t.Errorf("a failing mmdebstrap: %v", err)
	}
	onlyFiles(t, filepath.Dir(path))
}

// A tool that writes no tar stream, and one that is interrupted, end and leave nothing.
func TestToolIsStopped(t *testing.T) {
	fakeTool(t, "exec yes")
	path := filepath.Join(t.TempDir(), "a.tar")
	if err := run(t.Context(), []string{"-o", path, "-kind", "busybox"}, io.Discard); err == nil {
		t.Error("want an error for a stream that is no tar")
	}
	fakeTool(t, "exec sleep 1000")
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := run(ctx, []string{"-o", path, "-kind", "busybox"}, io.Discard); err == nil {
		t.Error("want an error after a cancellation")
	}
	onlyFiles(t, filepath.Dir(path))
}

func TestBuildIsDoneOnce(t *testing.T) {
	dir := t.TempDir()
	runs := filepath.Join(t.TempDir(), "runs")
	fakeTool(t, "echo run >>"+runs+"; cd "+t.TempDir()+"; mkdir -p bin doc; echo x >bin/busybox; echo y >doc/z; tar c bin doc")
	path := filepath.Join(dir, "a.tar")
	for range 2 {
		if err := run(t.Context(), []string{"-o", path, "-kind", "busybox"}, io.Discard); err != nil {
			t.Fatal(err)
		}
	}
	if data, err := os.ReadFile(runs); err != nil || string(data) != "run\n" {
		t.Errorf("mmdebstrap ran %q, %v; want one run", data, err)
	}
	archive, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(archive, []byte("bin/busybox")) || bytes.Contains(archive, []byte("doc/z")) {
		t.Error("the archive holds not what the image keeps")
	}
	onlyFiles(t, dir, "a.tar")
}
