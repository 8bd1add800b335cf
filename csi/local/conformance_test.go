package local_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/orlop-io/orlop/csi/host"
	"github.com/orlop-io/orlop/csi/local"
	"github.com/orlop-io/orlop/csi/local/dir"
	"github.com/orlop-io/orlop/csi/local/loop"
	"github.com/orlop-io/orlop/csi/volume"
	"github.com/orlop-io/orlop/csi/volumetest"
	"github.com/orlop-io/orlop/test/leak"
)

const clusterID = "test-cluster"

func config(path string, fault host.Fault) local.Config {
	h := host.New(fault)
	return local.Config{
		Path: path, ClusterID: clusterID, Host: h, Media: []local.Medium{loop.New(h), dir.New(h)},
	}
}

func subject(kind volume.Kind) volumetest.Subject {
	return volumetest.Subject{
		Open: func(ctx context.Context, path string, fault host.Fault) (volumetest.Instance, error) {
			pool, err := local.Open(ctx, config(path, fault))
			if err != nil {
				return volumetest.Instance{}, err
			}
			return volumetest.Instance{
				Service: volume.Serialize(pool), Settle: pool.EmptyTrash, Close: pool.Close,
			}, nil
		},
		Leftovers: func(path string) ([]string, error) {
			var left []string
			for _, part := range []string{"volumes", "trash"} {
				entries, err := os.ReadDir(filepath.Join(path, part))
				if err != nil && !errors.Is(err, fs.ErrNotExist) {
					return nil, err
				}
				for _, e := range entries {
					left = append(left, filepath.Join(part, e.Name()))
				}
			}
			return left, nil
		},
		LeakCheck:  func(t testing.TB, dir string) { leak.Check(t, leak.Under(dir)) },
		Parameters: map[string]string{local.ParamBackend: string(kind)},
	}
}

func TestDir(t *testing.T) {
	volumetest.Run(t, subject(volume.KindDir))
}

func TestLoop(t *testing.T) {
	s := subject(volume.KindLoop)
	s.Enforced, s.Block = true, true
	volumetest.Run(t, s)
}
