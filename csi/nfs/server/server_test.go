package server

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/csi/nfs/client"
	"github.com/orlop-io/orlop/csi/nfs/wire"
)

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}

// share is a served directory and its client.
type share struct {
	*client.Client

	t       *testing.T
	dir     string
	key     []byte
	port    int
	options client.Options
	stop    func()
}

func serve(t *testing.T, e Export) *share {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("an NFS server opens files by their handles and acts as its callers: it needs root")
	}
	key := make([]byte, KeySize)
	_, _ = rand.Read(key)
	if e.Path == "" {
		e.Path = "/data"
	}
	if e.Directory == "" {
		e.Directory = t.TempDir()
	}
	if e.Clients == nil {
		e.Clients = loopback
	}
	s := &share{t: t, dir: e.Directory, key: key}
	s.start(e)
	t.Cleanup(func() { s.stop() })
	c, err := client.Mount(t.Context(), s.options)
	if err != nil {
		t.Fatal(err)
	}
	s.Client = c
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// start serves, on the port of the last time.
func (s *share) start(e Export) {
	s.t.Helper()
	server, err := New(Config{Exports: []Export{e}, Key: s.key})
	if err != nil {
		s.t.Fatal(err)
	}
	listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", s.port))
	if err != nil {
		s.t.Fatal(err)
	}
	s.port = listener.Addr().(*net.TCPAddr).Port
	s.options = client.Options{Server: "127.0.0.1", Share: e.Path, Port: s.port, Auth: &wire.Auth{Machine: "test"}}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ctx, listener) }()
	stopped := false
	s.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := errors.Join(<-ended, server.Close()); err != nil {
			s.t.Error(err)
		}
	}
}

func (s *share) as(uid, gid uint32, groups ...uint32) *client.Client {
	return s.As(&wire.Auth{UID: uid, GID: gid, Groups: groups})
}

func (s *share) mkdir(name string, mode uint32) wire.Handle {
	s.t.Helper()
	r, err := s.Mkdir(s.t.Context(), s.Root(), name, wire.SetAttr{Mode: &mode})
	if err != nil || r.Object == nil || r.Attr == nil || r.Attr.Mode != mode {
		s.t.Fatalf("mkdir %s: %+v, %v", name, r, err)
	}
	return *r.Object
}

func (s *share) create(dir wire.Handle, name string, mode uint32) wire.Handle {
	s.t.Helper()
	r, err := s.Create(s.t.Context(), wire.CreateArgs{
		Where: wire.EntryArgs{Dir: dir, Name: name}, How: wire.CreateGuarded, Attr: wire.SetAttr{Mode: &mode},
	})
	if err != nil || r.Object == nil {
		s.t.Fatalf("create %s: %+v, %v", name, r, err)
	}
	return *r.Object
}

func want(t *testing.T, what string, err error, status wire.Status) {
	t.Helper()
	var got wire.Status
	if status == wire.OK {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	} else if !errors.As(err, &got) || got != status {
		t.Errorf("%s: %v, want %v", what, err, status)
	}
}

func TestFiles(t *testing.T) {
	s := serve(t, Export{})
	ctx := t.Context()
	f := s.create(s.Root(), "file", 0o640)
	data := bytes.Repeat([]byte("0123456789abcdef"), 10000)
	for _, stable := range []wire.Stability{wire.Unstable, wire.DataSync, wire.FileSync} {
		w, err := s.Write(ctx, f, 3, data, stable)
		want(t, "write", err, wire.OK)
		if int(w.Count) != len(data) || w.Committed != stable || w.Wcc.After == nil || w.Wcc.After.Size != uint64(len(data))+3 {
			t.Errorf("%+v", w)
		}
	}
	commit, err := s.Commit(ctx, f, 0, 0)
	want(t, "commit", err, wire.OK)
	if w, _ := s.Write(ctx, f, 0, []byte("abc"), wire.Unstable); w.Verifier != commit.Verifier {
		t.Error("the verifier changed")
	}
	onDisk, err := os.ReadFile(filepath.Join(s.dir, "file"))
	if err != nil || string(onDisk[:3]) != "abc" || !bytes.Equal(onDisk[3:], data) {
		t.Error("the file differs", err)
	}
	r, err := s.Read(ctx, f, 1, 10)
	want(t, "read", err, wire.OK)
	if string(r.Data) != "bc01234567" || r.EOF {
		t.Errorf("%q %v", r.Data, r.EOF)
	}
	r, err = s.Read(ctx, f, uint64(len(data)), 10)
	want(t, "read the end", err, wire.OK)
	if string(r.Data) != "def" || !r.EOF {
		t.Errorf("%q %v", r.Data, r.EOF)
	}
	for _, offset := range []uint64{1 << 40, 1 << 63, 1<<64 - 1} {
		if r, err = s.Read(ctx, f, offset, 10); err != nil || len(r.Data) != 0 || !r.EOF {
			t.Errorf("beyond the end: %+v %v", r, err)
		}
	}
	_, err = s.Write(ctx, f, 1<<63-1, []byte("x"), wire.Unstable)
	want(t, "write beyond all files", err, wire.ErrFBig)

	size, mode, uid, gid := uint64(5), uint32(0o4755), uint32(12), uint32(34)
	_, err = s.SetAttr(ctx, f, wire.SetAttr{
		Size: &size, Mode: &mode, UID: &uid, GID: &gid,
		Atime: wire.SetTime{How: wire.ClientTime, Time: wire.Time{Sec: 7, Nsec: 8}}, Mtime: wire.SetTime{How: wire.ServerTime},
	}, nil)
	want(t, "setattr", err, wire.OK)
	a, err := s.GetAttr(ctx, f)
	want(t, "getattr", err, wire.OK)
	if a.Size != 5 || a.Mode != 0o4755 || a.UID != 12 || a.GID != 34 || a.Atime != (wire.Time{Sec: 7, Nsec: 8}) || a.Mtime.Sec < 1e9 {
		t.Errorf("%+v", a)
	}
	_, err = s.SetAttr(ctx, f, wire.SetAttr{Size: &size}, &wire.Time{Sec: 1})
	want(t, "setattr with an old guard", err, wire.ErrNotSync)
	_, err = s.SetAttr(ctx, f, wire.SetAttr{Size: &size}, &a.Ctime)
	want(t, "setattr with the guard", err, wire.OK)

	want(t, "commit a directory", second(s.Commit(ctx, s.Root(), 0, 0)), wire.OK)
	want(t, "read a directory", second(s.Read(ctx, s.Root(), 0, 1)), wire.ErrIsDir)
	want(t, "write a directory", second(s.Write(ctx, s.Root(), 0, nil, 0)), wire.ErrIsDir)
	stat, err := s.FSStat(ctx)
	want(t, "fsstat", err, wire.OK)
	if stat.TotalBytes == 0 || stat.AvailBytes > stat.FreeBytes {
		t.Errorf("%+v", stat)
	}
	info, err := s.FSInfo(ctx)
	want(t, "fsinfo", err, wire.OK)
	if info.WriteMax != 1<<20 || info.Properties&wire.CanLink == 0 {
		t.Errorf("%+v", info)
	}
	conf, err := s.PathConf(ctx, s.Root())
	want(t, "pathconf", err, wire.OK)
	if conf.NameMax != 255 || !conf.NoTrunc {
		t.Errorf("%+v", conf)
	}
}

func second[T any](_ T, err error) error { return err }

func TestNames(t *testing.T) {
	s := serve(t, Export{})
	ctx, root := t.Context(), s.Root()
	dir := s.mkdir("dir", 0o755)
	f := s.create(dir, "file", 0o600)
	want(t, "link", second(s.Link(ctx, f, root, "other")), wire.OK)
	if a, _ := s.GetAttr(ctx, f); a.Links != 2 {
		t.Errorf("%d links", a.Links)
	}
	want(t, "rename", second(s.Rename(ctx, root, "other", dir, "moved")), wire.OK)
	found, err := s.Lookup(ctx, dir, "moved")
	want(t, "lookup", err, wire.OK)
	if found.Object != f || found.Attr == nil || found.DirAttr == nil {
		t.Errorf("%+v", found)
	}
	want(t, "symlink", second(s.Symlink(ctx, root, "link", "/etc/passwd", wire.SetAttr{})), wire.OK)
	link, err := s.Lookup(ctx, root, "link")
	want(t, "lookup the link", err, wire.OK)
	if link.Attr.Type != wire.TypeSymlink {
		t.Errorf("a symbolic link is followed: %+v", link.Attr)
	}
	target, err := s.ReadLink(ctx, link.Object)
	if err != nil || target.Path != "/etc/passwd" {
		t.Error(target, err)
	}
	want(t, "readlink of a file", second(s.ReadLink(ctx, f)), wire.ErrInval)
	want(t, "read a symbolic link", second(s.Read(ctx, link.Object, 0, 10)), wire.ErrInval)
	want(t, "lookup below a symbolic link", second(s.Lookup(ctx, link.Object, "x")), wire.ErrNotDir)
	uid := uint32(77)
	want(t, "chown of a symbolic link", second(s.SetAttr(ctx, link.Object, wire.SetAttr{UID: &uid}, nil)), wire.OK)
	for _, kind := range []wire.FileType{wire.TypeFIFO, wire.TypeSocket, wire.TypeCharacter, wire.TypeBlock} {
		mode, name := uint32(0o640), fmt.Sprint("node", kind)
		r, err := s.Mknod(ctx, wire.MknodArgs{
			Where: wire.EntryArgs{Dir: root, Name: name}, Type: kind, Attr: wire.SetAttr{Mode: &mode}, Device: wire.Device{Major: 1, Minor: 3},
		})
		if err != nil || r.Attr.Type != kind || r.Attr.Mode != mode {
			t.Errorf("mknod %d: %+v, %v", kind, r.Attr, err)
		}
		// Opening a FIFO or a device must neither hang nor do anything.
		want(t, "read "+name, second(s.Read(ctx, *r.Object, 0, 1)), wire.ErrInval)
		want(t, "remove "+name, second(s.Remove(ctx, root, name)), wire.OK)
	}
	want(t, "mknod of a regular file", second(s.Mknod(ctx, wire.MknodArgs{
		Where: wire.EntryArgs{Dir: root, Name: "x"}, Type: wire.TypeRegular,
	})), wire.ErrBadType)

	want(t, "mkdir again", second(s.Mkdir(ctx, root, "dir", wire.SetAttr{})), wire.ErrExist)
	want(t, "rmdir with entries", second(s.Rmdir(ctx, root, "dir")), wire.ErrNotEmpty)
	want(t, "remove a directory", second(s.Remove(ctx, root, "dir")), wire.ErrIsDir)
	want(t, "rmdir a file", second(s.Rmdir(ctx, dir, "file")), wire.ErrNotDir)
	want(t, "remove", second(s.Remove(ctx, dir, "file")), wire.OK)
	want(t, "remove the other", second(s.Remove(ctx, dir, "moved")), wire.OK)
	want(t, "rmdir", second(s.Rmdir(ctx, root, "dir")), wire.OK)
	want(t, "getattr of what is gone", second(s.GetAttr(ctx, f)), wire.ErrStale)
	want(t, "lookup in what is gone", second(s.Lookup(ctx, dir, "x")), wire.ErrStale)
	want(t, "lookup of nothing", second(s.Lookup(ctx, root, "nothing")), wire.ErrNoEnt)
}

func TestCreate(t *testing.T) {
	s := serve(t, Export{})
	ctx := t.Context()
	create := func(name string, how wire.CreateHow, verifier byte, attr wire.SetAttr) error {
		return second(s.Create(ctx, wire.CreateArgs{
			Where: wire.EntryArgs{Dir: s.Root(), Name: name}, How: how, Attr: attr, Verifier: wire.Verifier{verifier, 1, 2, 3, 4, 5, 6, 7},
		}))
	}
	mode, size := uint32(0o666), uint64(3)
	want(t, "unchecked", create("a", wire.CreateUnchecked, 0, wire.SetAttr{Mode: &mode, Size: &size}), wire.OK)
	old := syscall.Umask(0o077) // whatever it is, the mode is as asked
	other := uint32(0o660)
	want(t, "unchecked again", create("a", wire.CreateUnchecked, 0, wire.SetAttr{Mode: &other}), wire.OK)
	want(t, "under a umask", create("umask", wire.CreateGuarded, 0, wire.SetAttr{Mode: &mode}), wire.OK)
	syscall.Umask(old)
	for _, name := range []string{"a", "umask"} {
		if info, err := os.Stat(filepath.Join(s.dir, name)); err != nil || info.Mode() != 0o666 {
			t.Error(name, info.Mode(), err)
		}
	}
	want(t, "guarded", create("a", wire.CreateGuarded, 0, wire.SetAttr{}), wire.ErrExist)
	want(t, "exclusive", create("x", wire.CreateExclusive, 0xff, wire.SetAttr{}), wire.OK)
	want(t, "exclusive, sent again", create("x", wire.CreateExclusive, 0xff, wire.SetAttr{}), wire.OK)
	want(t, "exclusive by another", create("x", wire.CreateExclusive, 0xfe, wire.SetAttr{}), wire.ErrExist)
	s.mkdir("dir", 0o2775)
	want(t, "over a directory", create("dir", wire.CreateUnchecked, 0, wire.SetAttr{}), wire.ErrExist)
	dir, err := s.Lookup(ctx, s.Root(), "dir")
	want(t, "lookup", err, wire.OK)
	sub, err := s.Mkdir(ctx, dir.Object, "sub", wire.SetAttr{Mode: &mode})
	if err != nil || sub.Attr.Mode != 0o2666 {
		t.Errorf("the set-group-ID bit is not inherited: %+v, %v", sub.Attr, err)
	}
}

// Names and handles that a client makes up lead nowhere.
func TestHostileClient(t *testing.T) {
	top := t.TempDir()
	inside := filepath.Join(top, "share")
	if err := os.Mkdir(inside, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(top, "secret"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := serve(t, Export{Directory: inside})
	ctx, root := t.Context(), s.Root()
	up, err := s.Lookup(ctx, root, "..")
	if err != nil || up.Object != root {
		t.Errorf("above the root is %+v, %v", up, err)
	}
	for _, name := range []string{"", "a/b", "../secret", "/etc", "a\x00"} {
		for what, err := range map[string]error{
			"lookup": second(s.Lookup(ctx, root, name)), "mkdir": second(s.Mkdir(ctx, root, name, wire.SetAttr{})),
			"remove": second(s.Remove(ctx, root, name)), "rmdir": second(s.Rmdir(ctx, root, name)),
			"symlink": second(s.Symlink(ctx, root, name, "x", wire.SetAttr{})), "rename": second(s.Rename(ctx, root, name, root, "x")),
			"rename to": second(s.Rename(ctx, root, "x", root, name)), "link": second(s.Link(ctx, root, root, name)),
		} {
			want(t, fmt.Sprintf("%s %q", what, name), err, wire.ErrInval)
		}
	}
	for _, name := range []string{".", ".."} {
		want(t, "rmdir "+name, second(s.Rmdir(ctx, root, name)), wire.ErrInval)
		want(t, "mkdir "+name, second(s.Mkdir(ctx, root, name, wire.SetAttr{})), wire.ErrInval)
		want(t, "rename "+name, second(s.Rename(ctx, root, name, root, "x")), wire.ErrInval)
	}
	want(t, "a long name", second(s.Mkdir(ctx, root, strings.Repeat("n", 300), wire.SetAttr{})), wire.ErrNameTooLong)
	for i := range root {
		b := []byte(root)
		b[i] ^= 1
		if _, err := s.GetAttr(ctx, wire.Handle(b)); err == nil {
			t.Errorf("a handle with byte %d changed is good", i)
		}
	}
	for _, h := range []wire.Handle{"", "x", root[:len(root)-1], root + "x", wire.Handle(strings.Repeat("\x01", 64))} {
		want(t, fmt.Sprintf("handle %q", h), second(s.GetAttr(ctx, h)), wire.ErrBadHandle)
	}
	// What is mounted in the share is not part of it.
	mounted := filepath.Join(inside, "mounted")
	if err := os.Mkdir(mounted, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", mounted, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(mounted, 0); err != nil {
			t.Error(err)
		}
	})
	want(t, "lookup of a mount", second(s.Lookup(ctx, root, "mounted")), wire.ErrAcces)
	list, err := s.ReadDirPlus(ctx, root, 0, wire.Verifier{}, 4096)
	want(t, "list", err, wire.OK)
	for _, e := range list.Entries {
		if e.Name == "mounted" && (e.Object != nil || e.Attr != nil) {
			t.Errorf("%+v", e)
		}
	}
}

func TestPermissions(t *testing.T) {
	s := serve(t, Export{})
	ctx := t.Context()
	dir := s.mkdir("dir", 0o770)
	gid := uint32(500)
	want(t, "chgrp", second(s.SetAttr(ctx, dir, wire.SetAttr{GID: &gid}, nil)), wire.OK)
	stranger, member := s.as(1000, 1000), s.as(1000, 1000, 3, 500)
	mode := uint32(0o600)
	args := wire.CreateArgs{Where: wire.EntryArgs{Dir: dir, Name: "f"}, Attr: wire.SetAttr{Mode: &mode}}
	want(t, "create by a stranger", second(stranger.Create(ctx, args)), wire.ErrAcces)
	want(t, "list by a stranger", second(stranger.ReadDir(ctx, dir, 0, wire.Verifier{}, 4096)), wire.ErrAcces)
	want(t, "lookup by a stranger", second(stranger.Lookup(ctx, dir, "f")), wire.ErrAcces)
	made, err := member.Create(ctx, args)
	want(t, "create by a member of the group", err, wire.OK)
	if made.Attr.UID != 1000 || made.Attr.GID != 1000 {
		t.Errorf("%+v", made.Attr)
	}
	f := *made.Object
	other := s.as(1001, 500)
	want(t, "read by another", second(other.Read(ctx, f, 0, 1)), wire.ErrAcces)
	want(t, "write by another", second(other.Write(ctx, f, 0, []byte("x"), 0)), wire.ErrAcces)
	want(t, "chmod by another", second(other.SetAttr(ctx, f, wire.SetAttr{Mode: &mode}, nil)), wire.ErrPerm)
	want(t, "chown by its owner", second(member.SetAttr(ctx, f, wire.SetAttr{UID: new(uint32)}, nil)), wire.ErrPerm)
	none := uint32(0)
	want(t, "chmod by its owner", second(member.SetAttr(ctx, f, wire.SetAttr{Mode: &none}, nil)), wire.OK)
	want(t, "write by its owner, who had it open", second(member.Write(ctx, f, 0, []byte("x"), 0)), wire.OK)
	want(t, "device by a user", second(member.Mknod(ctx, wire.MknodArgs{
		Where: wire.EntryArgs{Dir: dir, Name: "d"}, Type: wire.TypeCharacter, Device: wire.Device{Major: 1, Minor: 3},
	})), wire.ErrPerm)
	all := uint32(wire.AccessRead | wire.AccessLookup | wire.AccessModify | wire.AccessExtend | wire.AccessDelete | wire.AccessExecute)
	for what, c := range map[string]struct {
		who  *client.Client
		h    wire.Handle
		want uint32
	}{
		"a stranger on the directory": {stranger, dir, 0},
		"a member on the directory":   {member, dir, all &^ wire.AccessExecute},
		"root on the file":            {s.Client, f, wire.AccessRead | wire.AccessModify | wire.AccessExtend},
		"another on the file":         {other, f, 0},
	} {
		if got, err := c.who.Access(ctx, c.h, all); err != nil || got.Access != c.want {
			t.Errorf("%s: %#x, %v, want %#x", what, got.Access, err, c.want)
		}
	}
	// The identity does not stick to threads: root is root again.
	want(t, "read by root", second(s.Read(ctx, f, 0, 1)), wire.OK)
}

func TestRootSquash(t *testing.T) {
	s := serve(t, Export{RootSquash: true})
	ctx := t.Context()
	mode := uint32(0o755)
	want(t, "mkdir by root", second(s.Mkdir(ctx, s.Root(), "x", wire.SetAttr{Mode: &mode})), wire.ErrAcces)
	if err := os.Chmod(s.dir, 0o777); err != nil {
		t.Fatal(err)
	}
	made, err := s.As(&wire.Auth{Groups: []uint32{0, 5}}).Mkdir(ctx, s.Root(), "x", wire.SetAttr{Mode: &mode})
	want(t, "mkdir by root where all may", err, wire.OK)
	if made.Attr == nil || made.Attr.UID != anonymous || made.Attr.GID != anonymous {
		t.Errorf("%+v", made.Attr)
	}
	nobody, err := s.As(nil).Mkdir(ctx, s.Root(), "y", wire.SetAttr{Mode: &mode})
	if err != nil || nobody.Attr.UID != anonymous {
		t.Error(nobody, err)
	}
}

func TestClients(t *testing.T) {
	s := serve(t, Export{})
	e := Export{Path: "/data", Directory: s.dir, Clients: []netip.Prefix{netip.MustParsePrefix("198.18.0.0/15")}}
	s.stop()
	s.start(e)
	if _, err := client.Mount(t.Context(), s.options); !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "export list") {
		t.Errorf("a client that is not on the list: %v", err)
	}
	want(t, "a handle of a client that is not on the list any more", second(s.GetAttr(t.Context(), s.Root())), wire.ErrAcces)
	exports, err := client.Exports(t.Context(), s.options)
	if err != nil || len(exports) != 1 || exports[0].Path != "/data" || exports[0].Groups[0] != "198.18.0.0/15" {
		t.Error(exports, err)
	}
	other := s.options
	other.Share = "/other"
	if _, err := client.Mount(t.Context(), other); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func TestMountBelow(t *testing.T) {
	s := serve(t, Export{})
	sub := s.mkdir("sub", 0o755)
	if err := os.Symlink("/etc", filepath.Join(s.dir, "out")); err != nil {
		t.Fatal(err)
	}
	o := s.options
	for share, want := range map[string]error{
		"/data/sub": nil, "/data/": nil, "/data/out": unix.ENOTDIR, "/data/../etc": fs.ErrNotExist, "/data/none": fs.ErrNotExist, "/databank": fs.ErrNotExist,
	} {
		o.Share = share
		c, err := client.Mount(t.Context(), o)
		if err == nil {
			if share == "/data/sub" && c.Root() != sub {
				t.Error("the handle differs")
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
		if want == nil && err != nil || want != nil && err == nil {
			t.Errorf("mount %s: %v, want %v", share, err, want)
		}
	}
}

// Handles outlive the server; the write verifier must not.
func TestRestart(t *testing.T) {
	s := serve(t, Export{})
	ctx := t.Context()
	f := s.create(s.Root(), "file", 0o600)
	before, err := s.Write(ctx, f, 0, []byte("data"), wire.Unstable)
	want(t, "write", err, wire.OK)
	s.stop()
	s.start(Export{Path: "/data", Directory: s.dir, Clients: loopback})
	after, err := s.Commit(ctx, f, 0, 0)
	want(t, "commit after the restart", err, wire.OK)
	if before.Verifier == after.Verifier {
		t.Error("the verifier is the same: a client would not send its data again")
	}
	r, err := s.Read(ctx, f, 0, 10)
	if err != nil || string(r.Data) != "data" {
		t.Error(r, err)
	}
}

func TestList(t *testing.T) {
	s := serve(t, Export{})
	ctx := t.Context()
	names := []string{".", ".."}
	for i := range 3000 {
		name := fmt.Sprintf("%d-%s", i, strings.Repeat("n", i%200))
		names = append(names, name)
		if err := os.WriteFile(filepath.Join(s.dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(names)
	for _, plus := range []bool{false, true} {
		for _, size := range []uint32{700, 4096, 1 << 20} {
			var got []string
			var cookie wire.Cookie
			for eof := false; !eof; {
				list := s.ReadDir
				if plus {
					list = s.ReadDirPlus
				}
				r, err := list(ctx, s.Root(), cookie, wire.Verifier{}, size)
				if err != nil {
					t.Fatal(err)
				}
				for _, e := range r.Entries {
					got = append(got, e.Name)
					cookie = e.Cookie
					if plus && e.Name != ".." && (e.Attr == nil || e.Attr.FileID != e.FileID || e.Object == nil) {
						t.Fatalf("%+v", e)
					}
				}
				eof = r.EOF
			}
			slices.Sort(got)
			if !slices.Equal(got, names) {
				t.Errorf("plus %v, size %d: %d names, want %d", plus, size, len(got), len(names))
			}
		}
	}
	want(t, "no room for an entry", second(s.ReadDir(ctx, s.Root(), 0, wire.Verifier{}, 120)), wire.ErrTooSmall)
	want(t, "list a file", second(s.ReadDir(ctx, s.create(s.Root(), "f", 0o600), 0, wire.Verifier{}, 4096)), wire.ErrNotDir)
}

// A call that comes twice over two connections is done once, and answered twice alike.
func TestDuplicates(t *testing.T) {
	s := serve(t, Export{})
	e := wire.RecordSpace(nil)
	(&wire.CallHeader{XID: 99, Program: wire.ProgramNFS, Version: wire.VersionNFS, Proc: uint32(wire.ProcMkdir), Auth: &wire.Auth{}}).Encode(e)
	(&wire.MkdirArgs{Where: wire.EntryArgs{Dir: s.Root(), Name: "once"}}).Encode(e)
	var first []byte
	for range 3 {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", s.port))
		if err != nil {
			t.Fatal(err)
		}
		if err := wire.WriteRecord(conn, e); err != nil {
			t.Fatal(err)
		}
		record, err := wire.NewRecordReader(conn, maxRecord).Next(nil)
		if err := errors.Join(err, conn.Close()); err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = record
		}
		var res wire.CreateRes
		d := wire.NewDecoder(record)
		if _, err := wire.ReplyXID(d); err != nil {
			t.Fatal(err)
		}
		if err := wire.DecodeReply(d); err != nil {
			t.Fatal(err)
		}
		res.Decode(d)
		if err := d.Finish(); err != nil || res.Status != wire.OK || !bytes.Equal(record, first) {
			t.Errorf("%+v, %v", res, err)
		}
	}
}

// Whatever a client sends costs its connection at most.
func FuzzAnswer(f *testing.F) {
	if os.Geteuid() != 0 {
		f.Skip("an NFS server needs root")
	}
	dir := f.TempDir()
	s, err := New(Config{Exports: []Export{{Path: "/data", Directory: dir, Clients: loopback}}, Key: make([]byte, KeySize)})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() {
		if err := s.Close(); err != nil {
			f.Error(err)
		}
	})
	client := netip.MustParseAddr("127.0.0.1")
	for proc := range wire.ProcCommit + 1 {
		var e wire.Encoder
		(&wire.CallHeader{XID: 1, Program: wire.ProgramNFS, Version: wire.VersionNFS, Proc: uint32(proc), Auth: &wire.Auth{UID: 1000}}).Encode(&e)
		f.Add(e.Bytes(), []byte(nil))
	}
	f.Fuzz(func(t *testing.T, head, args []byte) {
		if len(args) > maxRecord {
			return
		}
		s.answer(t.Context(), client, slices.Concat(head, args))
	})
}

func TestConfig(t *testing.T) {
	dir := t.TempDir()
	key := make([]byte, KeySize)
	for name, c := range map[string]Config{
		"no key":          {Exports: []Export{{Path: "/x", Directory: dir}}},
		"a relative path": {Exports: []Export{{Path: "x", Directory: dir}}, Key: key},
		"no directory":    {Exports: []Export{{Path: "/x", Directory: filepath.Join(dir, "none")}}, Key: key},
		"one path twice":  {Exports: []Export{{Path: "/x", Directory: dir}, {Path: "/x", Directory: dir}}, Key: key},
		"no handles":      {Exports: []Export{{Path: "/x", Directory: "/proc"}}, Key: key},
	} {
		if _, err := New(c); err == nil {
			t.Errorf("%s: no error", name)
		} else {
			t.Log(err)
		}
	}
}
