package dnsrelay

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestUpstreams(t *testing.T) {
	for name, tc := range map[string]struct {
		content string
		want    []string
	}{
		"empty":            {"", nil},
		"systemd-resolved": {"# stub\nnameserver 127.0.0.53\noptions edns0\n", []string{"127.0.0.53"}},
		"IPv6 and a zone":  {"nameserver fe80::1%eth0\nnameserver 2001:db8::1\n", []string{"fe80::1%eth0", "2001:db8::1"}},
		"three at most": {"nameserver 10.0.0.1\nnameserver 10.0.0.2\nnameserver 10.0.0.3\nnameserver 10.0.0.4\n",
			[]string{"10.0.0.1", "10.0.0.2", "10.0.0.3"}},
		"what is no use": {"nameserver\nnameserver x\nnameserver 0.0.0.0\n;nameserver 10.0.0.1\nnameserver 224.0.0.1\n",
			nil},
		"twice":             {"nameserver 10.0.0.1\nnameserver 10.0.0.1 # again", []string{"10.0.0.1"}},
		"tabs, no newline":  {"\tnameserver\t10.0.0.1", []string{"10.0.0.1"}},
		"not a whole word":  {"nameservers 10.0.0.1", nil},
		"only search lines": {"search a.example\n", nil},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "resolv.conf")
			must(t, os.WriteFile(file, []byte(tc.content), 0o644))
			got, err := Upstreams(file)
			if err != nil || !slices.Equal(got, tc.want) {
				t.Errorf("Upstreams = %v, %v; want %v", got, err, tc.want)
			}
		})
	}
	if got, err := Upstreams(filepath.Join(t.TempDir(), "absent")); err != nil || len(got) != 0 {
		t.Errorf("without a file: %v, %v", got, err)
	}
	if _, err := Upstreams(t.TempDir()); err == nil || errors.Is(err, os.ErrNotExist) {
		t.Errorf("with a directory: %v", err)
	}
}
