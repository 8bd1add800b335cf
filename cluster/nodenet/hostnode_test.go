package nodenet

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
)

// hostNodeIn asks HostNode inside the namespace of a network, which plays a host.
func hostNodeIn(t *testing.T, n *Network) (h Host, err error) {
	t.Helper()
	must(t, n.Enter(func() error {
		h, err = HostNode(t.Context())
		return nil
	}))
	return h, err
}

// addDevice gives the played host one more interface, up and with addresses.
func addDevice(t *testing.T, n *Network, name string, addrs ...string) {
	t.Helper()
	must(t, n.Enter(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = name, 1400
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: name + "p"}); err != nil {
			return err
		}
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		for _, a := range addrs {
			addr, err := netlink.ParseAddr(a)
			if err != nil {
				return err
			}
			if err := netlink.AddrAdd(link, addr); err != nil {
				return err
			}
		}
		return netlink.LinkSetUp(link)
	}))
}

func TestHostNode(t *testing.T) {
	n := ensure(t, newTestNet(t))
	defer remove(t, n)
	check := func(what, addr, iface string, mtu int) {
		t.Helper()
		h, err := hostNodeIn(t, n)
		if err != nil || h.Addr.String() != addr || h.Interface != iface || h.MTU != mtu {
			t.Errorf("%s: %+v, %v; want %s on %s", what, h, err, addr, iface)
		}
	}
	check("the interface of the default route", n.NodeAddr.String(), nodeInterface, n.MTU)

	addDevice(t, n, "second", "169.254.1.1/16", "198.18.250.1/24", "198.18.250.2/24")
	check("another interface does not matter", n.NodeAddr.String(), nodeInterface, n.MTU)

	must(t, n.Enter(func() error {
		second, err := netlink.LinkByName("second")
		if err != nil {
			return err
		}
		peer, err := netlink.LinkByName("secondp")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(peer); err != nil { // without it there is no carrier, and the kernel passes the route over
			return err
		}
		first, err := netlink.LinkByName(nodeInterface)
		if err != nil {
			return err
		}
		all := &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
		if err := netlink.RouteDel(&netlink.Route{LinkIndex: first.Attrs().Index, Dst: all}); err != nil {
			return err
		}
		low := &netlink.Route{LinkIndex: first.Attrs().Index, Dst: all, Gw: n.HostAddr.AsSlice(), Priority: 100}
		if err := netlink.RouteAdd(low); err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{LinkIndex: second.Attrs().Index, Dst: all, Priority: 50,
			Gw: net.IPv4(198, 18, 250, 254), Src: net.IPv4(198, 18, 250, 2)})
	}))
	check("the lowest metric, and the source that the route names", "198.18.250.2", "second", 1400)

	must(t, n.Enter(func() error {
		routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
		if err != nil {
			return err
		}
		for _, r := range routes {
			if r.Gw == nil {
				continue
			}
			if err := netlink.RouteDel(&r); err != nil {
				return err
			}
		}
		return nil
	}))
	check("no default route: any global address", n.NodeAddr.String(), nodeInterface, n.MTU)

	must(t, n.Enter(func() error {
		for _, name := range []string{nodeInterface, "second"} {
			link, err := netlink.LinkByName(name)
			if err != nil {
				return err
			}
			if err := netlink.LinkSetDown(link); err != nil {
				return err
			}
		}
		return nil
	}))
	addDevice(t, n, "third", "169.254.9.9/16")
	if h, err := hostNodeIn(t, n); err == nil || !strings.Contains(err.Error(), "--netns") {
		t.Errorf("with loopback and link-local addresses alone: %+v, %v", h, err)
	}
}

// TestHostNodeIgnoresOwnLinks: the host's end of another cluster's link goes away with that cluster.
func TestHostNodeIgnoresOwnLinks(t *testing.T) {
	n := ensure(t, newTestNet(t))
	defer remove(t, n)
	h, err := HostNode(t.Context())
	if err == nil && (h.Interface == n.HostInterface || !h.Addr.Is4() || h.Addr.IsLoopback()) {
		t.Errorf("HostNode = %+v", h)
	}
	link, err := netlink.LinkByName(n.HostInterface)
	must(t, err)
	if !isOwnLink(link.Attrs()) {
		t.Errorf("%s, alias %q, is not recognised", link.Attrs().Name, link.Attrs().Alias)
	}
}

func TestPrefixOf(t *testing.T) {
	for _, tc := range []struct {
		in   *net.IPNet
		want netip.Prefix
	}{
		{nil, netip.Prefix{}},
		{&net.IPNet{IP: net.IPv4(10, 1, 2, 3), Mask: net.CIDRMask(8, 32)}, netip.MustParsePrefix("10.1.2.3/8")},
		{&net.IPNet{IP: net.ParseIP("fd00::1"), Mask: net.CIDRMask(64, 128)}, netip.Prefix{}},
	} {
		if got := prefixOf(tc.in); got != tc.want {
			t.Errorf("prefixOf(%v) = %v, want %v", tc.in, got, tc.want)
		}
	}
}
