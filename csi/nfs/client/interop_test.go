package client_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/orlop-io/orlop/csi/nfs/client"
	"github.com/orlop-io/orlop/csi/nfs/nfstest"
	"github.com/orlop-io/orlop/csi/nfs/wire"
	"github.com/orlop-io/orlop/test/leak"
)

func mount(t *testing.T, o client.Options) *client.Client {
	t.Helper()
	c, err := client.Mount(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// Every procedure against a server that others wrote.
func TestGanesha(t *testing.T) {
	leak.Check(t)
	dir := t.TempDir()
	g := nfstest.StartGanesha(t, dir)
	g.Options.Connections = 3
	c := mount(t, g.Options) // it finds MOUNT's port by the port mapper
	ctx, root := t.Context(), c.Root()
	exports, err := client.Exports(ctx, g.Options)
	if err != nil || len(exports) != 1 || exports[0].Path != dir {
		t.Error(exports, err)
	}
	must := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	mode := uint32(0o751)
	sub, err := c.Mkdir(ctx, root, "sub", wire.SetAttr{Mode: &mode})
	must("mkdir", err)
	file, err := c.Create(ctx, wire.CreateArgs{
		Where: wire.EntryArgs{Dir: *sub.Object, Name: "file"}, How: wire.CreateGuarded, Attr: wire.SetAttr{Mode: &mode},
	})
	must("create", err)
	f := *file.Object
	data := bytes.Repeat([]byte("orlop"), 200000) // 1 MB, an odd part of a block
	w, err := c.Write(ctx, f, 1, data, wire.Unstable)
	must("write", err)
	must("write", second(c.Write(ctx, f, 1+uint64(w.Count), data[w.Count:], wire.FileSync)))
	must("commit", second(c.Commit(ctx, f, 0, 0)))
	onDisk, err := os.ReadFile(filepath.Join(dir, "sub", "file"))
	if err != nil || !bytes.Equal(onDisk[1:], data) {
		t.Error("the data differs", err)
	}
	var back []byte
	for eof := false; !eof; {
		r, err := c.Read(ctx, f, uint64(len(back)), 1<<18)
		must("read", err)
		back, eof = append(back, r.Data...), r.EOF
	}
	if !bytes.Equal(back, onDisk) {
		t.Error("the data read differs")
	}
	must("link", second(c.Link(ctx, f, root, "hard")))
	must("symlink", second(c.Symlink(ctx, root, "soft", "sub/file", wire.SetAttr{})))
	must("mknod", second(c.Mknod(ctx, wire.MknodArgs{Where: wire.EntryArgs{Dir: root, Name: "fifo"}, Type: wire.TypeFIFO})))
	soft, err := c.Lookup(ctx, root, "soft")
	must("lookup", err)
	target, err := c.ReadLink(ctx, soft.Object)
	if err != nil || target.Path != "sub/file" {
		t.Error(target, err)
	}
	a, err := c.GetAttr(ctx, f)
	if err != nil || a.Links != 2 || a.Size != uint64(len(data))+1 || a.Mode != mode {
		t.Error(a, err)
	}
	size := uint64(10)
	must("setattr", second(c.SetAttr(ctx, f, wire.SetAttr{Size: &size}, nil)))
	if r, err := c.Access(ctx, f, wire.AccessRead); err != nil || r.Access != wire.AccessRead {
		t.Error(r, err)
	}
	must("rename", second(c.Rename(ctx, root, "hard", *sub.Object, "moved")))
	if _, err := c.Lookup(ctx, root, "hard"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	must("fsstat", second(c.FSStat(ctx)))
	must("fsinfo", second(c.FSInfo(ctx)))
	must("pathconf", second(c.PathConf(ctx, root)))
	for i := range 500 {
		if err := os.WriteFile(filepath.Join(dir, "sub", fmt.Sprint(i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, plus := range []bool{true, false} {
		seen := map[string]bool{}
		var cookie wire.Cookie
		var verifier wire.Verifier
		for eof := false; !eof; {
			list := c.ReadDir
			if plus {
				list = c.ReadDirPlus
			}
			r, err := list(ctx, *sub.Object, cookie, verifier, 8192)
			must("list", err)
			for _, e := range r.Entries {
				seen[e.Name], cookie = true, e.Cookie
			}
			eof, verifier = r.EOF, r.Verifier
		}
		if len(seen) < 502 {
			t.Errorf("plus %v: %d names", plus, len(seen))
		}
	}
	must("remove", second(c.Remove(ctx, *sub.Object, "moved")))
	if _, err := c.Rmdir(ctx, root, "sub"); !errors.Is(err, wire.ErrNotEmpty) && !errors.Is(err, fs.ErrExist) {
		t.Error(err)
	}
	// The server crashes and comes back: the calls go on, on the same handles.
	g.Kill()
	g.Start()
	if a, err := c.GetAttr(ctx, f); err != nil || a.Size != 10 {
		t.Error(a, err)
	}
}

func second[T any](_ T, err error) error { return err }
