package server

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/vmware/go-nfs-client/nfs"
	"github.com/vmware/go-nfs-client/nfs/rpc"

	"github.com/orlop-io/orlop/cluster/osthread"
	"github.com/orlop-io/orlop/csi/nfs/nfstest"
)

// namespaced serves a directory on NFS' and the port mapper's own ports of a network namespace.
func namespaced(t *testing.T, dir string) (namespace string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a network namespace needs root")
	}
	namespace = nfstest.Namespace(t)
	s, err := New(Config{Exports: []Export{{Path: "/data", Directory: dir, Clients: loopback}}, Key: make([]byte, KeySize), Port: 2049})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	for _, address := range []string{"127.0.0.1:2049", "127.0.0.1:111"} {
		var listener net.Listener
		if err := osthread.Run(func() (err error) {
			if err := osthread.JoinNetns(namespace); err != nil {
				return err
			}
			listener, err = net.Listen("tcp", address)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		go func() { ended <- s.Serve(ctx, listener) }()
	}
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-ended, <-ended, s.Close()); err != nil {
			t.Error(err)
		}
	})
	return namespace
}

// Another client of NFS version 3, which asks the port mapper.
func TestGoNFSClient(t *testing.T) {
	dir := t.TempDir()
	namespace := namespaced(t, dir)
	if err := osthread.Run(func() error {
		if err := osthread.JoinNetns(namespace); err != nil {
			return err
		}
		mount, err := nfs.DialMount("127.0.0.1")
		if err != nil {
			return err
		}
		defer mount.Close()
		target, err := mount.Mount("/data", rpc.NewAuthUnix("test", 0, 0).Auth())
		if err != nil {
			return err
		}
		defer target.Close()
		if _, err := target.Mkdir("sub", 0o755); err != nil {
			return err
		}
		f, err := target.OpenFile("sub/file", 0o640)
		if err != nil {
			return err
		}
		data := bytes.Repeat([]byte("0123456789"), 50000)
		if _, err := f.Write(data); err != nil {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
		if f, err = target.Open("sub/file"); err != nil {
			return err
		}
		got, err := io.ReadAll(f)
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes came back of %d, %v", len(got), len(data), err)
		}
		entries, err := target.ReadDirPlus("sub")
		if err != nil {
			return err
		}
		var names []string
		for _, e := range entries {
			names = append(names, e.FileName)
		}
		if s := strings.Join(names, " "); !strings.Contains(s, "file") {
			t.Errorf("listed: %s", s)
		}
		return target.RemoveAll("sub")
	}); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Error(entries, err)
	}
}

// libnfs' tools.
func TestLibnfs(t *testing.T) {
	for _, tool := range []string{"nfs-ls", "nfs-cp"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%v: install libnfs-utils", err)
		}
	}
	dir := t.TempDir()
	namespace := namespaced(t, dir)
	run := func(args ...string) string {
		t.Helper()
		var out bytes.Buffer
		cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := osthread.Run(func() error {
			if err := osthread.JoinNetns(namespace); err != nil {
				return err
			}
			return cmd.Run()
		}); err != nil {
			t.Errorf("%v: %v: %s", args, err, &out)
		}
		return out.String()
	}
	here := filepath.Join(t.TempDir(), "here")
	data := bytes.Repeat([]byte("orlop"), 1<<20)
	if err := os.WriteFile(here, data, 0o644); err != nil {
		t.Fatal(err)
	}
	run("nfs-cp", here, "nfs://127.0.0.1/data/there")
	if got, err := os.ReadFile(filepath.Join(dir, "there")); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes were written of %d, %v", len(got), len(data), err)
	}
	run("nfs-cp", "nfs://127.0.0.1/data/there", here+"2")
	if got, err := os.ReadFile(here + "2"); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes were read of %d, %v", len(got), len(data), err)
	}
	if out := run("nfs-ls", "nfs://127.0.0.1/data"); !strings.Contains(out, "there") || !strings.Contains(out, strconv.Itoa(len(data))) {
		t.Errorf("listed: %s", out)
	}
}
