// Package oci writes container images of one layer as archives that containerd and skopeo take.
package oci

import (
	"archive/tar"
	"bytes"
	_ "crypto/sha256" // go-digest's Canonical algorithm
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// inputsAnnotation, in an archive's index, is of what the archive was made.
const inputsAnnotation = "orlop.io/inputs"

// Image says what an archive holds beside the layer.
type Image struct {
	// Name is the full name and tag.
	Name string
	// Arch is the architecture as Go has it.
	Arch string
	// Config is how containers are run from it.
	Config ocispec.ImageConfig
	// Inputs is any text that tells by what the archive was made; ReadInputs returns it.
	Inputs string
}

// Write writes the OCI image layout of an image with one layer, a tar stream, as a tar stream (image-spec, image-layout.md).
// The same image is the same bytes. The index comes first, so that ReadInputs is quick. The layer stays uncompressed:
// whoever pushes the image compresses it, and unpacking is what a demo waits for.
func Write(w io.Writer, image Image, layer io.ReadSeeker) error {
	layerDesc, err := describe(ocispec.MediaTypeImageLayer, layer)
	if err != nil {
		return err
	}
	epoch := time.Unix(0, 0).UTC()
	config, configDesc, err := encode(ocispec.MediaTypeImageConfig, ocispec.Image{
		Created:  &epoch,
		Platform: ocispec.Platform{OS: "linux", Architecture: image.Arch},
		Config:   image.Config,
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{layerDesc.Digest}},
	})
	if err != nil {
		return err
	}
	manifest, manifestDesc, err := encode(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    configDesc,
		Layers:    []ocispec.Descriptor{layerDesc},
	})
	if err != nil {
		return err
	}
	manifestDesc.Annotations = map[string]string{ocispec.AnnotationRefName: image.Name}
	index, _, err := encode(ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned:   specs.Versioned{SchemaVersion: 2},
		MediaType:   ocispec.MediaTypeImageIndex,
		Manifests:   []ocispec.Descriptor{manifestDesc},
		Annotations: map[string]string{inputsAnnotation: image.Inputs},
	})
	if err != nil {
		return err
	}
	version, _, err := encode("", ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
	if err != nil {
		return err
	}

	archive := tar.NewWriter(w)
	for _, entry := range []struct {
		name string
		size int64
		data io.Reader
	}{
		{ocispec.ImageIndexFile, int64(len(index)), bytes.NewReader(index)},
		{ocispec.ImageLayoutFile, int64(len(version)), bytes.NewReader(version)},
		{blob(configDesc), configDesc.Size, bytes.NewReader(config)},
		{blob(manifestDesc), manifestDesc.Size, bytes.NewReader(manifest)},
		{blob(layerDesc), layerDesc.Size, layer},
	} {
		hdr := &tar.Header{Typeflag: tar.TypeReg, Name: entry.name, Size: entry.size, Mode: 0o644, ModTime: epoch}
		if err := archive.WriteHeader(hdr); err != nil {
			return err
		}
		if _, err := io.Copy(archive, entry.data); err != nil {
			return fmt.Errorf("%s: %w", entry.name, err)
		}
	}
	return archive.Close()
}

func blob(desc ocispec.Descriptor) string {
	return fmt.Sprintf("%s/%s/%s", ocispec.ImageBlobsDir, desc.Digest.Algorithm(), desc.Digest.Encoded())
}

// describe reads all of r and leaves it at its beginning.
func describe(mediaType string, r io.ReadSeeker) (ocispec.Descriptor, error) {
	size, err := r.Seek(0, io.SeekEnd)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		return ocispec.Descriptor{}, err
	}
	sum, err := digest.FromReader(r)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	_, err = r.Seek(0, io.SeekStart)
	return ocispec.Descriptor{MediaType: mediaType, Digest: sum, Size: size}, err
}

func encode(mediaType string, v any) ([]byte, ocispec.Descriptor, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, ocispec.Descriptor{}, err
	}
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	return data, desc, nil
}

// ReadInputs returns the inputs of the archive at path: empty when the file is not there or begins otherwise.
func ReadInputs(path string) (inputs string, err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	archive := tar.NewReader(f)
	hdr, err := archive.Next()
	if err != nil || hdr.Name != ocispec.ImageIndexFile {
		return "", nil
	}
	var index ocispec.Index
	if err := json.NewDecoder(archive).Decode(&index); err != nil {
		return "", nil
	}
	return index.Annotations[inputsAnnotation], nil
}
