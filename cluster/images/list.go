package images

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	criapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Image is one name of an image on a node.
type Image struct {
	// Name is the full name with its tag, or with its digest where the image has no tag.
	Name string `json:"name"`
	// ID is the digest of the image's configuration; all names of one image share it.
	ID string `json:"id"`
	// SizeBytes is what the image's compressed content takes in the content store.
	SizeBytes uint64 `json:"sizeBytes"`
	// Pinned images are never removed by the kubelet's garbage collection.
	Pinned bool `json:"pinned"`
}

// List returns the images that the kubelet can use, by name.
func List(ctx context.Context, socket string) (all []Image, err error) {
	ctx, client, err := connect(ctx, socket)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, client.Close()) }()

	response, err := client.cri.ListImages(ctx, &criapi.ListImagesRequest{})
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	all = []Image{} // an empty list is [] in JSON, not null
	for _, img := range response.GetImages() {
		names := img.GetRepoTags()
		if len(names) == 0 {
			names = img.GetRepoDigests()
		}
		for _, name := range names {
			all = append(all, Image{Name: name, ID: img.GetId(), SizeBytes: img.GetSize(), Pinned: img.GetPinned()})
		}
	}
	slices.SortFunc(all, func(a, b Image) int { return cmp.Compare(a.Name, b.Name) })
	return all, nil
}
