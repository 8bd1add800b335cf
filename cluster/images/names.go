package images

import (
	"fmt"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Normalize returns the full form of an image name, the form under which containerd's CRI plugin looks an image
// up when a pod asks for it: "mysql:8" becomes "docker.io/library/mysql:8", a missing tag becomes "latest", and
// of a name with both a tag and a digest the digest remains.
func Normalize(name string) (string, error) {
	ref, err := reference.ParseDockerRef(name)
	if err != nil {
		return "", fmt.Errorf("image name %q: %w", name, err)
	}
	return ref.String(), nil
}

// nameOf returns the normalized name that an entry of an archive's index carries. It is empty when there is none,
// and when the entry has nothing but a tag: the image specification lets a ref.name be just that, and a tag alone
// says nothing about the image.
func nameOf(desc ocispec.Descriptor) (string, error) {
	for _, key := range []string{images.AnnotationImageName, ocispec.AnnotationRefName} {
		if name := desc.Annotations[key]; strings.ContainsAny(name, "/:@") {
			return Normalize(name)
		}
	}
	return "", nil
}
