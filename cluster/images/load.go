package images

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// load streams a tar archive into a content store and returns the images in it that fit the platform, under
// normalized names, ready for the image store. The content is labelled so that it lives as long as an image that
// refers to it; until then the caller's lease keeps it.
func load(ctx context.Context, store content.Store, tarball io.Reader, platform platforms.MatchComparer) (
	[]images.Image, error) {
	index, err := archive.ImportIndex(ctx, store, tarball)
	if err != nil {
		return nil, classify(err)
	}
	// A tar reader stops at the end mark; a checksum, or what was cut off, comes after it.
	if _, err := io.Copy(io.Discard, tarball); err != nil {
		return nil, classify(err)
	}
	blob, err := content.ReadBlob(ctx, store, index)
	if err != nil {
		return nil, err
	}
	var idx ocispec.Index
	if err := json.Unmarshal(blob, &idx); err != nil {
		return nil, fmt.Errorf("%w: index.json: %w", ErrNotArchive, err)
	}

	var found []images.Image
	var others []string // what was passed over, and why
	for _, desc := range idx.Manifests {
		name, err := nameOf(desc)
		if err != nil {
			return nil, err
		}
		if name == "" {
			continue
		}
		offered, err := images.Platforms(ctx, store, desc)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, classify(err))
		}
		if !slices.ContainsFunc(offered, platform.Match) {
			others = append(others, fmt.Sprintf("%s is for %s", name, formatPlatforms(offered)))
			continue
		}
		if err := label(ctx, store, desc, platform); err != nil {
			return nil, fmt.Errorf("%s: %w", name, classify(err))
		}
		desc.Annotations = nil // those of the archive's index, not of the image
		found = append(found, images.Image{Name: name, Target: desc})
	}

	switch {
	case len(found) > 0:
		return found, nil
	case len(others) > 0:
		return nil, fmt.Errorf("%w: %s, this node is %s; build or save it with --platform %[3]s", ErrPlatform,
			strings.Join(others, ", "), platforms.FormatAll(platforms.DefaultSpec()))
	default:
		return nil, fmt.Errorf("%w: save it under one, as in \"docker save NAME:TAG\" or "+
			"\"skopeo copy ... oci-archive:FILE:NAME:TAG\"", ErrNoName)
	}
}

// label ties every blob of an image to the one that refers to it, as containerd's garbage collector wants it, for
// the platform alone: an archive of a multi-platform image may hold the blobs of one.
func label(ctx context.Context, store content.Store, desc ocispec.Descriptor, platform platforms.MatchComparer) error {
	handler := images.ChildrenHandler(store)
	handler = images.FilterPlatforms(handler, platform)
	handler = images.SetChildrenLabels(store, handler)
	present := images.HandlerFunc(func(ctx context.Context, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		if _, err := store.Info(ctx, desc.Digest); err != nil {
			return nil, err
		}
		return handler(ctx, desc)
	})
	return images.WalkNotEmpty(ctx, present, desc)
}

// classify adds what an error means for the archive. containerd's importer has no error values of its own to tell
// a bad archive by: it wraps those of the tar and JSON readers, or says in words that nothing was recognized.
func classify(err error) error {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case errors.Is(err, ErrNotArchive):
		return err
	case errdefs.IsNotFound(err):
		return fmt.Errorf("%w: %w", ErrIncomplete, err)
	case errors.Is(err, tar.ErrHeader), errors.Is(err, io.ErrUnexpectedEOF), errors.As(err, &syntax),
		errors.As(err, &kind), strings.Contains(err.Error(), "unrecognized image format"),
		strings.Contains(err.Error(), "OCI layout"), strings.Contains(err.Error(), "OCI version"):
		return fmt.Errorf("%w: %w", ErrNotArchive, err)
	}
	return err
}

func formatPlatforms(all []ocispec.Platform) string {
	if len(all) == 0 {
		return "no known platform"
	}
	names := make([]string, len(all))
	for i, p := range all {
		names[i] = platforms.FormatAll(p)
	}
	return strings.Join(names, ", ")
}
