package fusefs_test

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/posixtest"

	"github.com/orlop-io/orlop/csi/nfs/client"
	"github.com/orlop-io/orlop/csi/nfs/fusefs"
	"github.com/orlop-io/orlop/csi/nfs/nfstest"
	"github.com/orlop-io/orlop/csi/nfs/server"
	"github.com/orlop-io/orlop/csi/nfs/wire"
	"github.com/orlop-io/orlop/test/leak"
)

// share is a directory that a server of ours serves, through a proxy.
type share struct {
	dir     string
	proxy   *nfstest.Proxy
	options client.Options
	// restart starts the server anew, as a crash and a start do: unstable writes may be lost then.
	restart func()
}

func serve(t *testing.T) *share { return serveDir(t, func(string) {}) }

// serveDir serves a directory that prepare has prepared.
func serveDir(t *testing.T, prepare func(dir string)) *share {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting, and serving NFS, need root")
	}
	s := &share{dir: t.TempDir()}
	prepare(s.dir)
	key := make([]byte, server.KeySize)
	_, _ = rand.Read(key)
	var mu sync.Mutex
	var address string
	start := func() (stop func()) {
		nfs, err := server.New(server.Config{Key: key, Exports: []server.Export{{
			Path: "/data", Directory: s.dir, Clients: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Async: true,
		}}})
		if err != nil {
			t.Fatal(err)
		}
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		address = listener.Addr().String()
		mu.Unlock()
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- nfs.Serve(ctx, listener) }()
		return func() {
			cancel()
			if err := errors.Join(<-ended, nfs.Close()); err != nil {
				t.Error(err)
			}
		}
	}
	stop := start()
	t.Cleanup(func() { stop() })
	s.restart = func() {
		stop()
		stop = start()
	}
	s.proxy = nfstest.NewProxy(t, func(ctx context.Context) (net.Conn, error) {
		mu.Lock()
		to := address
		mu.Unlock()
		return new(net.Dialer).DialContext(ctx, "tcp", to)
	})
	s.options = client.Options{
		Server: "127.0.0.1", Share: "/data", Port: s.proxy.Port(), Auth: &wire.Auth{}, Connections: 2, Retransmit: time.Second,
	}
	return s
}

// mount mounts a share and returns where.
func mount(t *testing.T, o client.Options, options fusefs.Options) (string, *fusefs.FS) {
	t.Helper()
	c, err := client.Mount(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	target := filepath.Join(t.TempDir(), "mnt")
	if err := os.Mkdir(target, 0o755); err != nil {
		t.Fatal(err)
	}
	fs, err := fusefs.Mount(t.Context(), c, target, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(fs.Unmount(), c.Close()); err != nil {
			t.Error(err)
		}
	})
	return target, fs
}

// unsupported are go-fuse's tests of what NFS version 3 does not have, or not for a client.
var unsupported = map[string]string{
	"Fallocate":           "the protocol has no fallocate",
	"XAttr":               "the protocol has no extended attributes",
	"XAttrLarge":          "the protocol has no extended attributes",
	"FallocateKeepSize":   "the protocol has no fallocate",
	"OpenSymlinkRace":     "a file that is replaced between look-up and open is stale (ESTALE), which the kernel tries again once",
	"FcntlFlockLocksFile": "it wants POSIX locks of one process to exclude each other, which they do not",
}

// unsupportedByGanesha are those that this server does not do.
var unsupportedByGanesha = map[string]string{
	"SetattrSymlink": "nfs-ganesha 4.3 does not set the times of symbolic links",
}

func TestPOSIX(t *testing.T) {
	leak.Check(t)
	for server, o := range map[string]func(*testing.T) client.Options{
		"embedded": func(t *testing.T) client.Options { return serve(t).options },
		"ganesha":  func(t *testing.T) client.Options { return nfstest.StartGanesha(t, t.TempDir()).Options },
	} {
		t.Run(server, func(t *testing.T) {
			options := o(t)
			for name, test := range posixtest.All {
				t.Run(name, func(t *testing.T) {
					why := unsupported[name]
					if server == "ganesha" && why == "" {
						why = unsupportedByGanesha[name]
					}
					if why != "" {
						t.Skip(why)
					}
					target, _ := mount(t, options, fusefs.Options{})
					dir := filepath.Join(target, name)
					if err := os.Mkdir(dir, 0o777); err != nil {
						t.Fatal(err)
					}
					test(t, dir)
					if err := os.RemoveAll(dir); err != nil {
						t.Error(err)
					}
				})
			}
		})
	}
}
