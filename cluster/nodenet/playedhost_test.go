package nodenet

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
)

// onPlayedHost runs fn in a fresh namespace that plays the host, so that the host's own settings can be played
// with as well.
func onPlayedHost(t *testing.T, n string, fn func()) {
	t.Helper()
	h := newNetwork(n+"-host", "", linkPrefix(0))
	ns, err := ensureNetns(h.NetnsPath)
	must(t, err)
	must(t, ns.Close())
	defer func() { must(t, removeNetns(h.NetnsPath)) }()
	must(t, h.Enter(func() error { fn(); return nil }))
}

func TestForwardingIsSwitchedOnAndToldOf(t *testing.T) {
	opts := newTestNet(t)
	onPlayedHost(t, opts.Name, func() {
		if _, err := setSysctl("ip_forward", "0"); err != nil {
			t.Error(err)
			return
		}
		for i, want := range []bool{true, false} {
			n, err := Ensure(t.Context(), opts)
			if err != nil {
				t.Error(err)
				return
			}
			if n.ForwardingEnabled != want {
				t.Errorf("run %d: ForwardingEnabled = %v, want %v", i, n.ForwardingEnabled, want)
			}
			if n.MTU != defaultMTU {
				t.Errorf("without a default route the MTU is %d, want %d", n.MTU, defaultMTU)
			}
		}
		value, err := os.ReadFile(filepath.Join(ipv4, "ip_forward"))
		if err != nil || strings.TrimSpace(string(value)) != "1" {
			t.Errorf("ip_forward is %q, %v", value, err)
		}
		n, err := Load(opts.StateFile)
		if err == nil {
			err = n.Delete(t.Context())
		}
		if err != nil {
			t.Error(err)
		}
	})
}

// TestRoutesAreHeeded has the host route parts of the range elsewhere: in the main table and in another.
func TestRoutesAreHeeded(t *testing.T) {
	opts := newTestNet(t)
	onPlayedHost(t, opts.Name, func() {
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(lo)
		}
		for table, dst := range map[int]string{254: "198.18.0.0/17", 77: "198.18.128.0/18"} {
			if err == nil {
				_, ipNet, perr := net.ParseCIDR(dst)
				if perr != nil {
					t.Error(perr)
					return
				}
				err = netlink.RouteAdd(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: ipNet, Table: table})
			}
		}
		if err != nil {
			t.Error(err)
			return
		}
		n, err := Ensure(t.Context(), opts)
		if err != nil {
			t.Error(err)
			return
		}
		if !netip.MustParsePrefix("198.18.192.0/18").Contains(n.NodeAddr) {
			t.Errorf("the node has %s, which the host routes elsewhere", n.NodeAddr)
		}
		if err := n.Delete(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestGivenMTU(t *testing.T) {
	opts := newTestNet(t)
	opts.MTU = 1300
	n := ensure(t, opts)
	defer remove(t, n)
	opts.MTU = 1280
	changed := ensure(t, opts)
	outer, err := netlink.LinkByName(n.HostInterface)
	must(t, err)
	must(t, n.Enter(func() error {
		inner, err := netlink.LinkByName(nodeInterface)
		if err == nil && inner.Attrs().MTU != 1280 {
			t.Errorf("the inner MTU is %d, want 1280", inner.Attrs().MTU)
		}
		return err
	}))
	if outer.Attrs().MTU != 1280 || changed.MTU != 1280 {
		t.Errorf("the outer MTU is %d, Ensure says %d; want 1280", outer.Attrs().MTU, changed.MTU)
	}
}
