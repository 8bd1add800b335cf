package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/test/leak"
)

func runNFS(ctx context.Context, args ...string) (string, error) {
	var out bytes.Buffer
	cmd := newCommand()
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SetArgs(append([]string{"nfs"}, args...))
	err := cmd.ExecuteContext(ctx)
	return out.String(), err
}

// A directory is served, looked at, mounted, and served again with the same handles, by the commands.
func TestNFS(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("serving and mounting need root")
	}
	leak.Check(t)
	dir := t.TempDir()
	served, mounted, key := filepath.Join(dir, "served"), filepath.Join(dir, "mounted"), filepath.Join(dir, "key")
	for _, d := range []string{served, mounted} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	port := freePort(t)
	options := fmt.Sprintf("port=%d", port)
	var address = fmt.Sprintf("127.0.0.1:%d", port)
	serve := func() (stop func()) {
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() {
			_, err := runNFS(ctx, "serve", "--export", "/data="+served, "--client", "127.0.0.1", "--listen", address, "--key-file", key,
				"--root-squash=false")
			ended <- err
		}()
		waitFor(t, func() bool {
			conn, err := net.Dial("tcp", address)
			return err == nil && conn.Close() == nil
		})
		return func() {
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	}
	stop := serve()
	ctx, unmount := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		_, err := runNFS(ctx, "mount", "-o", options+",nconnect=2,timeo=10", "127.0.0.1:/data", mounted)
		ended <- err
	}()
	waitFor(t, func() bool {
		var st unix.Statfs_t
		return unix.Statfs(mounted, &st) == nil && st.Type == unix.FUSE_SUPER_MAGIC
	})
	if err := os.WriteFile(filepath.Join(mounted, "file"), []byte("content"), 0o640); err != nil {
		t.Error(err)
	}
	stop()
	stop = serve()
	if got, err := os.ReadFile(filepath.Join(mounted, "file")); err != nil || string(got) != "content" {
		t.Errorf("after a restart of the server: %q, %v", got, err)
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"exports", "-o", options, "127.0.0.1"}, "/data  127.0.0.1/32"},
		{[]string{"ls", "-o", options, "127.0.0.1:/data"}, "file"},
		{[]string{"ls", "-o", options, "127.0.0.1:/data", "/"}, "-rw-r-----  0:0    7"},
		{[]string{"probe", "-o", options, "127.0.0.1:/data"}, "may user 0 write to the root  yes"},
	} {
		out, err := runNFS(t.Context(), c.args...)
		if err != nil || !strings.Contains(out, c.want) {
			t.Errorf("%v: %v: %s", c.args, err, out)
		}
	}
	for _, args := range [][]string{
		{"ls", "-o", options, "127.0.0.1:/data", "none"}, {"ls", "-o", options, "127.0.0.1:/none"}, {"probe", "127.0.0.1"},
		{"mount", "-o", "bogus", "127.0.0.1:/data", mounted}, {"mount", "-o", options, "127.0.0.1:/data", filepath.Join(dir, "none")},
	} {
		if out, err := runNFS(t.Context(), args...); err == nil {
			t.Errorf("%v: no error: %s", args, out)
		} else {
			t.Log(err)
		}
	}
	unmount()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	stop()
}

func TestNFSServeRefuses(t *testing.T) {
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad")
	if err := os.WriteFile(bad, []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	export, clients, key := "--export=/data="+dir, "--client=127.0.0.1", "--key-file="+filepath.Join(dir, "key")
	for want, args := range map[string][]string{
		"--client is required":   {export, key},
		"--export is required":   {clients, key},
		"--key-file is required": {clients, export},
		"write SHARE=DIRECTORY":  {clients, "--export=/data", key},
		"give an address":        {export, "--client=everybody", key},
		"is no key":              {export, clients, "--key-file=" + bad},
		"absolute and clean":     {"--export=data=" + dir, clients, key, "--listen=127.0.0.1:0"},
		"--listen":               {export, clients, key, "--listen=nowhere"},
	} {
		if _, err := runNFS(t.Context(), append([]string{"serve"}, args...)...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", args, err, want)
		}
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}()
	return l.Addr().(*net.TCPAddr).Port
}

func waitFor(t *testing.T, done func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(time.Minute)
	for !done() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("it did not come about within a minute")
		}
	}
}
