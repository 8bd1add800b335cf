package nodenet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// defaultMTU is that of Ethernet, for hosts whose traffic goes nowhere.
const defaultMTU = 1500

// Host is how a node without a namespace of its own is reached.
type Host struct {
	// Addr is the node's address: IPv4, never loopback.
	Addr netip.Addr
	// Interface has that address, MTU is its, in bytes.
	Interface string
	MTU       int
}

// HostNode picks the address of a node that uses the host's network: that of the interface with the default
// route (of several, the one with the lowest metric), and where there is no default route, a global address that
// is not loopback, real interfaces before virtual ones. Kubernetes refuses loopback node addresses, so without
// any other the error says what to do.
func HostNode(ctx context.Context) (Host, error) {
	if err := ctx.Err(); err != nil {
		return Host{}, err
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return Host{}, fmt.Errorf("opening a netlink socket: %w", err)
	}
	defer h.Close()
	routes, err := defaultRoutes(h)
	if err != nil {
		return Host{}, err
	}
	found, err := candidates(h)
	if err != nil {
		return Host{}, err
	}
	for _, r := range routes {
		for _, c := range found {
			if c.index == r.LinkIndex && (r.Src == nil || r.Src.Equal(c.Addr.AsSlice())) {
				return c.Host, nil
			}
		}
	}
	if len(found) > 0 {
		return found[0].Host, nil
	}
	return Host{}, errors.New("this host has no IPv4 address but loopback, which Kubernetes refuses as a node's " +
		"address; give an interface one ('ip address add …'), or run with --netns, which makes its own")
}

type candidate struct {
	Host
	index   int
	virtual bool
}

// candidates lists the host's global IPv4 addresses in the order in which they serve as a node's: on devices
// first, then by interface and as the interface lists them.
func candidates(h *netlink.Handle) ([]candidate, error) {
	links, err := dump(h.LinkList)
	if err != nil {
		return nil, fmt.Errorf("listing the host's interfaces: %w", err)
	}
	var out []candidate
	for _, link := range links {
		a := link.Attrs()
		if a.RawFlags&unix.IFF_UP == 0 || a.RawFlags&unix.IFF_LOOPBACK != 0 || isOwnLink(a) {
			continue
		}
		addrs, err := dump(func() ([]netlink.Addr, error) { return h.AddrList(link, netlink.FAMILY_V4) })
		if err != nil {
			return nil, fmt.Errorf("listing the addresses of %s: %w", a.Name, err)
		}
		for _, addr := range addrs {
			ip, ok := netip.AddrFromSlice(addr.IP.To4())
			if !ok || !ip.IsGlobalUnicast() || addr.Scope != unix.RT_SCOPE_UNIVERSE {
				continue
			}
			out = append(out, candidate{
				Host:    Host{Addr: ip, Interface: a.Name, MTU: a.MTU},
				index:   a.Index,
				virtual: link.Type() != "device",
			})
		}
	}
	slices.SortStableFunc(out, func(x, y candidate) int {
		if x.virtual != y.virtual {
			if y.virtual {
				return -1
			}
			return 1
		}
		return cmp.Compare(x.index, y.index)
	})
	return out, nil
}

// isOwnLink tells whether the interface is the host's end of a link that this package made.
func isOwnLink(a *netlink.LinkAttrs) bool {
	return a.Alias != "" && strings.HasPrefix(a.Name, linkNamePrefix) && a.Name == hostInterface(a.Alias)
}

// defaultRoutes lists the IPv4 default routes of the main table, lowest metric first. Of a multipath route, the
// first hop counts.
func defaultRoutes(h *netlink.Handle) ([]netlink.Route, error) {
	all, err := dump(func() ([]netlink.Route, error) { return h.RouteList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return nil, fmt.Errorf("listing the host's routes: %w", err)
	}
	var out []netlink.Route
	for _, r := range all {
		if r.Type != unix.RTN_UNICAST || r.Dst != nil && prefixOf(r.Dst) != netip.PrefixFrom(netip.IPv4Unspecified(), 0) {
			continue
		}
		if r.LinkIndex == 0 && len(r.MultiPath) > 0 {
			r.LinkIndex = r.MultiPath[0].LinkIndex
		}
		out = append(out, r)
	}
	slices.SortStableFunc(out, func(x, y netlink.Route) int { return cmp.Compare(x.Priority, y.Priority) })
	return out, nil
}

// uplinkMTU is the MTU of the interface that the default route uses: larger packets of the node would be
// fragmented on the way out, or lost where fragmenting is forbidden.
func (l *links) uplinkMTU() (int, error) {
	routes, err := defaultRoutes(l.host)
	if err != nil {
		return 0, err
	}
	if len(routes) == 0 {
		return defaultMTU, nil
	}
	link, err := l.host.LinkByIndex(routes[0].LinkIndex)
	if isLinkNotFound(err) {
		return defaultMTU, nil // gone since the routes were listed
	}
	if err != nil {
		return 0, fmt.Errorf("interface of the default route: %w", err)
	}
	return link.Attrs().MTU, nil
}
