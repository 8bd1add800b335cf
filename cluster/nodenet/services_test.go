package nodenet

import (
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/cluster/osthread"
)

// TestServiceRoute makes the route in a namespace that plays a host without a default route, and in one that has one.
func TestServiceRoute(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	services := netip.MustParsePrefix("198.19.128.0/17")
	node := Host{Addr: netip.MustParseAddr("198.18.0.1"), Interface: "up0"}
	for name, withDefault := range map[string]bool{"no default route": false, "a default route": true} {
		t.Run(name, func(t *testing.T) {
			err := osthread.Run(func() error { return inNewNetns(t, node, withDefault, services) })
			if err != nil {
				t.Fatal(err)
			}
		})
	}
}

// inNewNetns runs on a thread that is thrown away, with a nameless namespace of its own that goes with it.
func inNewNetns(t *testing.T, node Host, withDefault bool, services netip.Prefix) error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return err
	}
	link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: node.Interface}, PeerName: "up1"}
	if err := netlink.LinkAdd(link); err != nil {
		return err
	}
	addr, err := netlink.ParseAddr(node.Addr.String() + "/24")
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(link, addr); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return err
	}
	everywhere := &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}
	if withDefault {
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: everywhere}); err != nil {
			return err
		}
	}
	routed := func() bool {
		routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
		if err != nil {
			t.Error(err)
		}
		for _, r := range routes {
			if r.Dst != nil && strings.HasPrefix(r.Dst.String(), services.String()) {
				return true
			}
		}
		return false
	}
	for range 2 { // the second finds it
		if err := EnsureServiceRoute(services, node); err != nil {
			return err
		}
		if routed() == withDefault {
			t.Errorf("a route to Services: %t, a default route: %t", routed(), withDefault)
		}
	}
	for range 2 { // the second finds nothing
		if err := RemoveServiceRoute(t.Context(), services); err != nil {
			return err
		}
		if routed() {
			t.Error("the route is left")
		}
	}
	return nil
}
