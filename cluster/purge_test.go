package cluster

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/cluster/file"
)

// started makes the files that a cluster has after its first start, as far as a purge sees them.
func started(t *testing.T, dataDir string) Layout {
	t.Helper()
	l := Layout{DataDir: dataDir, Node: "worker-1"}
	for _, f := range []string{l.stateFile(), l.netFile(), l.Kubeconfig(), l.lockFile(), l.pkiDir() + "/ca.key", l.etcdDir() + "/db",
		l.LogFile("etcd"), l.configFile("Corefile"), l.poolDir() + "/v/image", l.KubeletDir() + "/x", l.containerdDir() + "/y"} {
		if err := file.WriteAll(f, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

func TestPurge(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	started(t, dir)
	if err := Purge(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the data directory is left: %v", err)
	}
}

func TestPurgeKeepsForeignFiles(t *testing.T) {
	dir := t.TempDir()
	started(t, dir)
	foreign := filepath.Join(dir, "my-backup.tar")
	if err := os.WriteFile(foreign, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Purge(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 || content(t, foreign) != "precious" {
		t.Errorf("left are %v, %v", entries, err)
	}
}

func TestPurgeOfARunningCluster(t *testing.T) {
	dir := t.TempDir()
	l := started(t, dir)
	lock, err := acquire(l.lockFile())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := contextThatEnded(t)
	defer cancel()
	if err := Purge(ctx, dir); !errors.Is(err, ErrRunning) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(l.etcdDir()); err != nil {
		t.Error(err)
	}
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
}

// A disk of its own for the volumes is emptied; that it is mounted is its administrator's business.
func TestPurgeEmptiesAMountedDisk(t *testing.T) {
	needsRoot(t)
	dir := t.TempDir()
	pools := filepath.Join(dir, "pools")
	mountTmpfs(t, pools)
	started(t, dir)
	if err := Purge(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(pools); err != nil || len(entries) != 0 {
		t.Errorf("on the disk are %v, %v", entries, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "cluster.json")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the rest is left: %v", err)
	}
	if !mounted(t, pools) {
		t.Error("the disk was unmounted")
	}
}

func mountTmpfs(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", path, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && mounted(t, path) {
			t.Error(err)
		}
	})
}
