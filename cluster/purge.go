package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Purge removes a stopped cluster's data: what Orlop made in the data directory, and the directory itself when nothing
// else is in it. cluster.json goes last, so that a purge that was cut short can be run again.
func Purge(ctx context.Context, dataDir string) error {
	l := Layout{DataDir: dataDir}
	lock, err := acquireSoon(ctx, l.lockFile())
	if err != nil {
		return err
	}
	for _, name := range []string{"nodes", "pools", "etcd", "pki", "config", "logs", "kubeconfig", "network.json", "run", "cluster.json"} {
		if err := os.RemoveAll(filepath.Join(dataDir, name)); err != nil {
			return errors.Join(fmt.Errorf("purging %s: %w", dataDir, err), lock.Close())
		}
	}
	if err := os.Remove(dataDir); err != nil && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EBUSY) {
		return errors.Join(err, lock.Close())
	}
	return lock.Close()
}
