package preflight

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fakeHost is a host on which nothing is wrong, for tests to break.
type fakeHost struct {
	machine
	t *testing.T
}

const allCapabilities = "000001ffffffffff"

func newFake(t *testing.T) *fakeHost {
	t.Helper()
	h := &fakeHost{t: t, machine: machine{
		root:     t.TempDir(),
		firewall: func() ([]string, error) { return nil, nil },
		pause:    func(context.Context) error { return nil },
	}}
	h.write("proc/self/status", "Name:\torlop\nCapPrm:\t0\nCapEff:\t"+allCapabilities+"\nCapBnd:\t0\n")
	h.write("proc/self/mountinfo", "30 1 0:30 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
	h.write("proc/self/ns/net", "")
	h.write("proc/filesystems", "nodev\toverlay\n\text4\n")
	h.write("proc/sys/kernel/osrelease", "6.1.0-28-amd64\n")
	h.write("proc/sys/kernel/hostname", "box\n")
	h.write("proc/swaps", "Filename\t\t\t\tType\t\tSize\n")
	h.write("proc/net/tcp", tcpHeader)
	h.write("dev/loop-control", "")
	h.write("etc/resolv.conf", "nameserver 10.0.0.1\n")
	h.write("etc/hosts", "127.0.0.1 localhost\n127.0.1.1 box.example box # here\n")
	for _, tool := range []string{"mount", "umount", "mkfs.ext4"} {
		h.install(tool, "")
	}
	h.install("nft", "echo 'nftables v1.0.6 (Lester Gooch #5)'")
	return h
}

const tcpHeader = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"

func (h *fakeHost) write(name, content string) {
	h.t.Helper()
	file := filepath.Join(h.root, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		h.t.Fatal(err)
	}
}

func (h *fakeHost) remove(name string) {
	h.t.Helper()
	if err := os.RemoveAll(filepath.Join(h.root, name)); err != nil {
		h.t.Fatal(err)
	}
}

// install puts a shell script where programs are.
func (h *fakeHost) install(name, script string) {
	h.t.Helper()
	h.write("usr/sbin/"+name, "#!/bin/sh\n"+script+"\n")
	if err := os.Chmod(filepath.Join(h.root, "usr/sbin", name), 0o755); err != nil {
		h.t.Fatal(err)
	}
}

// symlink makes what /proc/<pid>/fd has.
func (h *fakeHost) symlink(target, name string) {
	h.t.Helper()
	file := filepath.Join(h.root, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.Symlink(target, file); err != nil {
		h.t.Fatal(err)
	}
}

// one runs the checks and wants one problem, which has all the parts in its sentence.
func (h *fakeHost) one(opts Options, fatal bool, parts ...string) {
	h.t.Helper()
	_, problems := h.run(h.t.Context(), opts)
	if len(problems) != 1 || problems[0].Fatal != fatal {
		h.t.Errorf("problems %+v; want one, fatal %v", problems, fatal)
		return
	}
	for _, part := range parts {
		if !strings.Contains(problems[0].Error(), part) {
			h.t.Errorf("%q does not say %q", problems[0].Error(), part)
		}
	}
}
