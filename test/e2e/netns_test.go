package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/cluster/osthread"
)

// namespace is a network namespace the test made, which plays a host.
type namespace struct {
	t    *testing.T
	name string
	// addr is its only address besides loopback: nothing answers beyond, and there is no default route.
	addr string
}

func newNamespace(t *testing.T) *namespace {
	t.Helper()
	n := &namespace{t: t, name: fmt.Sprintf("orlop-e2e-%d", os.Getpid()), addr: "198.18.255.1"}
	must(t, "ip", "netns", "add", n.name)
	t.Cleanup(func() { must(t, "ip", "netns", "delete", n.name) })
	for _, line := range []string{
		"link set lo up", "link add up0 type veth peer name up1", "addr add " + n.addr + "/24 dev up0",
		"link set up0 up", "link set up1 up",
	} {
		n.ip(strings.Fields(line)...)
	}
	return n
}

func must(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func (n *namespace) path() string { return "/run/netns/" + n.name }

func (n *namespace) ip(args ...string) string {
	n.t.Helper()
	return must(n.t, append([]string{"ip", "-n", n.name}, args...)...)
}

// enter is the command that runs another in the namespace, under a host name that resolves nowhere. Not `ip netns exec`,
// which mounts another /sys and so hides the cgroups.
func (n *namespace) enter() []string {
	return []string{"nsenter", "--net=" + n.path(), "unshare", "--uts", "sh", "-ec", `hostname Lone.Test; exec "$@"`, "sh"}
}

// inside runs fn on a thread in the network namespace at path.
func inside(path string, fn func() error) error {
	return osthread.Run(func() (err error) {
		ns, err := os.Open(path)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, ns.Close()) }()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("entering %s: %w", path, err)
		}
		return fn()
	})
}

// dialer opens connections in the network namespace at path, to literal addresses only.
func dialer(path string) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (conn net.Conn, err error) {
		err = inside(path, func() error {
			conn, err = (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, network, addr)
			return err
		})
		return conn, err
	}
}

// getInside gets a URL from within the network namespace at path.
func getInside(path, url, want string) error {
	transport := &http.Transport{DialContext: dialer(path)}
	defer transport.CloseIdleConnections()
	return getWith(&http.Client{Transport: transport, Timeout: 5 * time.Second}, url, want)
}
