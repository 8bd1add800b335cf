package nodenet

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
)

var testNets atomic.Int32

// newTestNet reserves a name for a network and checks at the end that nothing is left of it.
func newTestNet(t *testing.T) Options {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes network namespaces")
	}
	opts := Options{
		Name:      fmt.Sprintf("orlop-test-%d-%d", os.Getpid(), testNets.Add(1)),
		StateFile: filepath.Join(t.TempDir(), "network.json"),
	}
	t.Cleanup(func() { checkNothingLeft(t, opts.Name) })
	return opts
}

func checkNothingLeft(t *testing.T, name string) {
	t.Helper()
	if _, err := os.Lstat(filepath.Join(netnsDir, name)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the namespace is left: %v", err)
	}
	if _, err := netlink.LinkByName(hostInterface(name)); !isLinkNotFound(err) {
		t.Errorf("the host's end of the link is left: %v", err)
	}
	if tableExists(t, name) {
		t.Error("the nftables table is left")
	}
}

func tableExists(t *testing.T, name string) bool {
	t.Helper()
	conn, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	tables, err := conn.ListTablesOfFamily(nftables.TableFamilyIPv4)
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range tables {
		if table.Name == name {
			return true
		}
	}
	return false
}

func ensure(t *testing.T, opts Options) *Network {
	t.Helper()
	n, err := Ensure(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func remove(t *testing.T, n *Network) {
	t.Helper()
	if err := n.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// exchange has the node serve at its address and asks it from the host; then the other way round.
func exchange(t *testing.T, n *Network) {
	t.Helper()
	var inside net.Listener
	listen := func(addr string) (net.Listener, error) {
		var lc net.ListenConfig
		return lc.Listen(t.Context(), "tcp", addr)
	}
	if err := n.Enter(func() (err error) { inside, err = listen(n.NodeAddr.String() + ":0"); return err }); err != nil {
		t.Fatal(err)
	}
	outside, err := listen(n.HostAddr.String() + ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(t, inside, outside)
	dial := func(addr net.Addr) func() error {
		return func() error {
			c, err := net.DialTimeout("tcp", addr.String(), 10*time.Second)
			if err != nil {
				return err
			}
			return c.Close()
		}
	}
	if err := dial(inside.Addr())(); err != nil {
		t.Errorf("the host cannot reach the node: %v", err)
	}
	if err := n.Enter(dial(outside.Addr())); err != nil {
		t.Errorf("the node cannot reach the host: %v", err)
	}
}

func closeAll(t *testing.T, closers ...interface{ Close() error }) {
	t.Helper()
	for _, c := range closers {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestEnsureAndDelete(t *testing.T) {
	opts := newTestNet(t)
	n := ensure(t, opts)
	defer remove(t, n)
	exchange(t, n)

	if out, err := exec.Command("ip", "netns").Output(); err == nil && !strings.Contains(string(out), opts.Name) {
		t.Errorf("`ip netns` does not show %s:\n%s", opts.Name, out)
	}
	sysctl := func(name string) (value string) {
		err := n.Enter(func() error {
			b, err := os.ReadFile(filepath.Join(ipv4, name))
			value = strings.TrimSpace(string(b))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
	if sysctl("ip_forward") != "1" || sysctl("conf/all/rp_filter") != "2" {
		t.Errorf("inside: ip_forward %s, rp_filter %s", sysctl("ip_forward"), sysctl("conf/all/rp_filter"))
	}

	loaded, err := Load(opts.StateFile)
	if err != nil || loaded.NodeAddr != n.NodeAddr || loaded.NetnsPath != n.NetnsPath ||
		loaded.HostInterface != n.HostInterface {
		t.Errorf("Load = %+v, %v; want what Ensure returned: %+v", loaded, err, n)
	}
	before, err := netlink.LinkByName(n.HostInterface)
	if err != nil {
		t.Fatal(err)
	}
	again := ensure(t, opts)
	after, err := netlink.LinkByName(n.HostInterface)
	if err != nil {
		t.Fatal(err)
	}
	if again.NodeAddr != n.NodeAddr || before.Attrs().Index != after.Attrs().Index {
		t.Errorf("a second Ensure made it anew: %+v", again)
	}
	remove(t, n)
	checkNothingLeft(t, opts.Name)
	back := ensure(t, opts)
	if back.NodeAddr != n.NodeAddr {
		t.Errorf("after Delete and Ensure the address is %s, was %s", back.NodeAddr, n.NodeAddr)
	}
	exchange(t, back)
	remove(t, back)
	remove(t, back) // gone already
}

// TestHeal breaks a network in each way that a kill or a meddling hand could.
func TestHeal(t *testing.T) {
	for name, breakIt := range map[string]func(t *testing.T, n *Network){
		"namespace file without a namespace": func(t *testing.T, n *Network) {
			if err := n.Delete(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(n.NetnsPath, nil, 0o444); err != nil {
				t.Fatal(err)
			}
		},
		"namespace without a link": func(t *testing.T, n *Network) { must(t, removeHostLink(n.HostInterface)) },
		"link without addresses": func(t *testing.T, n *Network) {
			link, err := netlink.LinkByName(n.HostInterface)
			must(t, err)
			must(t, netlink.LinkSetDown(link))
			addrs, err := netlink.AddrList(link, netlink.FAMILY_V4)
			must(t, err)
			for _, a := range addrs {
				must(t, netlink.AddrDel(link, &a))
			}
		},
		"link into a namespace that has lost its name": func(t *testing.T, n *Network) {
			held, err := os.Open(n.NetnsPath) // keeps the namespace alive
			must(t, err)
			t.Cleanup(func() { closeAll(t, held) })
			must(t, removeNetns(n.NetnsPath))
		},
		"node without a default route": func(t *testing.T, n *Network) {
			must(t, n.Enter(func() error {
				link, err := netlink.LinkByName(nodeInterface)
				if err != nil {
					return err
				}
				return errors.Join(netlink.LinkSetDown(link), netlink.LinkSetUp(link))
			}))
		},
		"no nftables table": func(t *testing.T, n *Network) { must(t, removeTable(n.Name)) },
		"no state file":     func(t *testing.T, n *Network) { must(t, os.Remove(n.stateFile)) },
	} {
		t.Run(name, func(t *testing.T) {
			opts := newTestNet(t)
			n := ensure(t, opts)
			defer remove(t, n)
			breakIt(t, n)
			healed := ensure(t, opts)
			exchange(t, healed)
			if !tableExists(t, opts.Name) {
				t.Error("no nftables table")
			}
			if healed.NodeAddr != n.NodeAddr {
				t.Errorf("the address changed from %s to %s", n.NodeAddr, healed.NodeAddr)
			}
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
