package dnsrelay

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
)

// maxNameservers is how many nameserver lines resolvers heed (MAXNS in resolv.conf(5)).
const maxNameservers = 3

// Upstreams lists the resolvers that a resolv.conf(5) names, in order: addresses without a port, three at most.
// There are none, and no error, when the file does not exist or names no usable one; that a host without
// resolvers has one on loopback, as resolv.conf(5) would have it, is not assumed.
func Upstreams(resolvConf string) ([]string, error) {
	b, err := os.ReadFile(resolvConf)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the host's resolvers: %w", err)
	}
	var out []string
	for line := range strings.Lines(string(b)) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		addr, err := netip.ParseAddr(fields[1])
		if err != nil || addr.IsUnspecified() || addr.IsMulticast() || slices.Contains(out, addr.String()) {
			continue
		}
		if out = append(out, addr.String()); len(out) == maxNameservers {
			break
		}
	}
	return out, nil
}

// upstreams follows a resolv.conf: it is read again whenever the file is another one than at the last question.
// A stat for each is cheaper than watching it, and right also when it is a symbolic link or is replaced.
type upstreams struct {
	file string
	self string // the relay's own address, which would make it ask itself

	mu    sync.Mutex
	info  fs.FileInfo // of the file as last read; nil when it was absent
	list  []string
	first int // where to begin: past those that last did not answer
}

// get returns the resolvers in the order in which to ask them.
func (u *upstreams) get() ([]string, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	info, err := os.Stat(u.file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading the host's resolvers: %w", err)
	}
	if u.list == nil || !sameFile(u.info, info) {
		list, err := Upstreams(u.file)
		if err != nil {
			return nil, err
		}
		u.list = slices.DeleteFunc(list, func(a string) bool { return a == u.self })
		u.info, u.first = info, 0
	}
	return slices.Concat(u.list[u.first:], u.list[:u.first]), nil
}

// failed notes that a resolver gave no answer: the next question goes to the one after it.
func (u *upstreams) failed(addr string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.list) > 1 && u.list[u.first] == addr {
		u.first = (u.first + 1) % len(u.list)
	}
}

func sameFile(a, b fs.FileInfo) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}
