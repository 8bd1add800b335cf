package images

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

const (
	pauseRepository = "orlop.io/pause"
	// pauseUser owns nothing and is in no image's user list, as with upstream's pause image.
	pauseUser = "65535:65535"
	// pinnedLabel keeps an image from the kubelet's image garbage collection. The CRI plugin reports an image with
	// the value "pinned" as pinned.
	pinnedLabel = "io.cri-containerd.pinned"
)

// PauseRef returns the name of the sandbox image that [EnsurePause] makes of a pause program. The tag is a digest
// of the program, so that an upgraded program is an image of its own and an unchanged one is found again. It is
// what containerd's configuration wants as pinned_images.sandbox, before containerd runs.
func PauseRef(pauseBinary string) (string, error) {
	ref, _, err := readPause(pauseBinary)
	return ref, err
}

func readPause(path string) (ref string, program []byte, err error) {
	program, err = os.ReadFile(path)
	if err != nil {
		return "", nil, fmt.Errorf("pause program: %w; build it with \"make build\"", err)
	}
	digest := sha256.Sum256(program)
	return fmt.Sprintf("%s:%x", pauseRepository, digest[:6]), program, nil
}

// EnsurePause makes sure that the containerd at socket has the sandbox image of the program at pauseBinary,
// unpacked and pinned, and returns its name, that of [PauseRef]. An image that is there costs one look; otherwise
// the image is made in memory and imported.
func EnsurePause(ctx context.Context, socket, pauseBinary string) (ref string, err error) {
	ref, program, err := readPause(pauseBinary)
	if err != nil {
		return "", err
	}
	ctx, client, err := connect(ctx, socket)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, client.Close()) }()

	ready, err := hasUnpacked(ctx, client, ref)
	if err != nil {
		return "", fmt.Errorf("look for %s: %w", ref, err)
	}
	if ready {
		return ref, nil
	}
	archive, err := pauseArchive(ref, program)
	if err != nil {
		return "", fmt.Errorf("make %s: %w", ref, err)
	}
	if _, err := importStream(ctx, client, archive, func(string) {}); err != nil {
		return "", fmt.Errorf("import %s: %w", ref, err)
	}
	return ref, nil
}

func hasUnpacked(ctx context.Context, client *runtimeClient, ref string) (bool, error) {
	img, err := client.GetImage(ctx, ref)
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	if err != nil || img.Labels()[pinnedLabel] == "" {
		return false, err
	}
	unpacked, err := img.IsUnpacked(ctx, "")
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	return unpacked, err
}

// pauseArchive returns a docker archive of an image that holds the program and nothing else.
func pauseArchive(ref string, program []byte) (io.Reader, error) {
	var files bytes.Buffer
	w := tar.NewWriter(&files)
	if err := w.WriteHeader(&tar.Header{Name: "pause", Mode: 0o755, Size: int64(len(program))}); err != nil {
		return nil, err
	}
	if _, err := w.Write(program); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	// Uncompressed: it goes through memory to a local disk, and the start of a cluster waits for it.
	img, err := mutate.AppendLayers(empty.Image, static.NewLayer(files.Bytes(), types.DockerUncompressedLayer))
	if err != nil {
		return nil, err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = runtime.GOOS, runtime.GOARCH
	config.Config = v1.Config{Entrypoint: []string{"/pause"}, User: pauseUser, WorkingDir: "/"}
	if img, err = mutate.ConfigFile(img, config); err != nil {
		return nil, err
	}
	tag, err := name.NewTag(ref)
	if err != nil {
		return nil, err
	}
	var archive bytes.Buffer
	if err := tarball.Write(tag, img, &archive); err != nil {
		return nil, err
	}
	return &archive, nil
}
