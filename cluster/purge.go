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
// else is in it. cluster.json goes after all it speaks of, so that a purge that was cut short can be run again, and the
// lock after that. Where a disk of its own is mounted, the disk is emptied and the mount point stays.
func Purge(ctx context.Context, dataDir string) error {
	l := Layout{DataDir: dataDir}
	lock, err := acquireSoon(ctx, l.lockFile())
	if err != nil {
		return err
	}
	for _, name := range []string{"nodes", "pools", "etcd", "pki", "config", "logs", "kubeconfig", "kubeconfig.tmp",
		"network.json", "network.json.tmp", "cluster.json.tmp", "cluster.json", "run"} {
		if err := os.RemoveAll(filepath.Join(dataDir, name)); err != nil && !errors.Is(err, unix.EBUSY) {
			return errors.Join(fmt.Errorf("purging %s: %w", dataDir, err), lock.Close())
		}
	}
	if err := os.Remove(dataDir); err != nil && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EBUSY) {
		return errors.Join(err, lock.Close())
	}
	return lock.Close()
}
