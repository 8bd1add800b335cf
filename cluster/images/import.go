package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	criapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Import puts the images of the archives at paths into the containerd at socket, in the order given, and returns
// their normalized names, pinned until Remove. It stops at the first archive that fails and then returns the names imported before it:
// an archive is imported whole or not at all. Importing what is there already replaces it and is no error.
//
// Each error names the file and wraps ErrNotArchive, ErrNoName, ErrPlatform, ErrIncomplete, ErrNoRuntime, or that
// of the file or of containerd. progress, if not nil, is called with one line before each lengthy step. Concurrent
// calls are safe.
func Import(ctx context.Context, socket string, paths []string, progress func(string)) (names []string, err error) {
	if progress == nil {
		progress = func(string) {}
	}
	ctx, client, err := connect(ctx, socket)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, client.Close()) }()

	for _, path := range paths {
		progress("reading " + path)
		imported, err := importFile(ctx, client, path, progress)
		names = append(names, imported...)
		if err != nil {
			return names, err
		}
	}
	return names, nil
}

func importFile(ctx context.Context, client *runtimeClient, path string, progress func(string)) (
	names []string, err error) {
	archive, err := openArchive(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, archive.Close()) }()
	names, err = importStream(ctx, client, archive, progress)
	if err != nil {
		return nil, fmt.Errorf("import %s: %w", path, err)
	}
	return names, nil
}

// importStream loads a tar stream, unpacks its images, registers them under their names and waits until the kubelet can
// see them. They are pinned: what the kubelet's garbage collection removed could be had from no registry again.
func importStream(ctx context.Context, client *runtimeClient, tarball io.Reader, progress func(string)) (
	names []string, err error) {
	labels := map[string]string{pinnedLabel: "pinned"}
	// The lease keeps the content from the garbage collector until the images refer to it. It is given back after
	// a cancellation too: a lease that stays would keep a failed import on the disk for a day.
	leased, release, err := client.WithLease(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, release(context.WithoutCancel(leased))) }()

	found, err := load(leased, client.ContentStore(), tarball, platforms.Default())
	if err != nil {
		return nil, err
	}
	for _, img := range found {
		progress("unpacking " + img.Name)
		img.Labels = labels
		// Unpacked before it is registered: a name that the kubelet can see is an image that it can run.
		unpacked := containerd.NewImageWithPlatform(client.Client, img, platforms.Default())
		if err := unpacked.Unpack(leased, ""); err != nil {
			return nil, fmt.Errorf("unpack %s: %w", img.Name, err)
		}
	}
	for _, img := range found {
		img.Labels = labels
		if err := register(leased, client.ImageService(), img); err != nil {
			return nil, fmt.Errorf("register %s: %w", img.Name, err)
		}
		names = append(names, img.Name)
	}
	return names, awaitVisible(ctx, client.cri, found)
}

func register(ctx context.Context, store images.Store, img images.Image) error {
	_, err := store.Create(ctx, img)
	if !errdefs.IsAlreadyExists(err) {
		return err
	}
	fields := []string{"target"}
	for key := range img.Labels {
		fields = append(fields, "labels."+key)
	}
	_, err = store.Update(ctx, img, fields...)
	return err
}

// visiblePoll is how often the CRI plugin is asked for an image just registered. It learns of one by an event, a
// few milliseconds later, and has no call that waits for it.
const visiblePoll = 2 * time.Millisecond

// awaitVisible returns when the CRI plugin knows the images. A pod started before would have the kubelet pull
// them, fail, and back off.
func awaitVisible(ctx context.Context, cri criapi.ImageServiceClient, all []images.Image) error {
	tick := time.NewTicker(visiblePoll)
	defer tick.Stop()
	for _, img := range all {
		for {
			status, err := cri.ImageStatus(ctx, &criapi.ImageStatusRequest{Image: &criapi.ImageSpec{Image: img.Name}})
			if err != nil {
				return fmt.Errorf("ask for %s: %w", img.Name, err)
			}
			if status.GetImage() != nil {
				break
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("wait for %s: %w", img.Name, context.Cause(ctx))
			case <-tick.C:
			}
		}
	}
	return nil
}
