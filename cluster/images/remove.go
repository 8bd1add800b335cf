package images

import (
	"context"
	"errors"
	"fmt"
	"strings"

	criapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Remove takes images off the node, under all names they have. It stops at the first it cannot remove: one that is not
// there is ErrNoImage, and the sandbox image, without which no pod starts, is refused. Containers that run from an image go on.
func Remove(ctx context.Context, socket string, names []string) (err error) {
	ctx, client, err := connect(ctx, socket)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	for _, name := range names {
		full, err := Normalize(name)
		if err != nil {
			return err
		}
		if strings.HasPrefix(full, pauseRepository+":") {
			return fmt.Errorf("%s is the image of every pod's sandbox and stays", full)
		}
		spec := &criapi.ImageSpec{Image: full}
		status, err := client.cri.ImageStatus(ctx, &criapi.ImageStatusRequest{Image: spec})
		if err != nil {
			return fmt.Errorf("look for %s: %w", full, err)
		}
		if status.GetImage() == nil {
			return fmt.Errorf("%w %s: see 'orlop images list'", ErrNoImage, full)
		}
		if _, err := client.cri.RemoveImage(ctx, &criapi.RemoveImageRequest{Image: spec}); err != nil {
			return fmt.Errorf("remove %s: %w", full, err)
		}
	}
	return nil
}
