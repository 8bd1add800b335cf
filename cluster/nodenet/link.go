package nodenet

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// links configures both ends of the veth pair, each through a netlink socket in its own namespace.
type links struct {
	host, node *netlink.Handle
	ns         *os.File
}

func openLinks(ns *os.File) (*links, error) {
	host, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("opening a netlink socket: %w", err)
	}
	node, err := netlink.NewHandleAt(netns.NsHandle(ns.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		host.Close()
		return nil, fmt.Errorf("opening a netlink socket inside the namespace: %w", err)
	}
	return &links{host: host, node: node, ns: ns}, nil
}

func (l *links) close() {
	l.host.Close()
	l.node.Close()
}

// intact tells whether the pair exists, its ends are each other's peers and the host's end has its address.
// What can be put right on it without breaking connections is left to configure.
func (l *links) intact(n *Network) bool {
	outer, err := l.host.LinkByName(n.HostInterface)
	if err != nil || outer.Type() != "veth" {
		return false
	}
	inner, err := l.node.LinkByName(nodeInterface)
	if err != nil || inner.Type() != "veth" ||
		outer.Attrs().ParentIndex != inner.Attrs().Index || inner.Attrs().ParentIndex != outer.Attrs().Index {
		return false
	}
	addrs, err := dump(func() ([]netlink.Addr, error) { return l.host.AddrList(outer, netlink.FAMILY_V4) })
	if err != nil {
		return false
	}
	for _, a := range addrs {
		if prefixOf(a.IPNet) == netip.PrefixFrom(n.HostAddr, linkBits) {
			return true
		}
	}
	return false
}

// removePair deletes what is left of an earlier pair: deleting one end takes the other along.
func (l *links) removePair(n *Network) error {
	return errors.Join(removeLink(l.host, n.HostInterface), removeLink(l.node, nodeInterface))
}

func removeHostLink(name string) error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("opening a netlink socket: %w", err)
	}
	defer h.Close()
	return removeLink(h, name)
}

func removeLink(h *netlink.Handle, name string) error {
	link, err := h.LinkByName(name)
	if isLinkNotFound(err) {
		return nil
	}
	if err == nil {
		err = h.LinkDel(link)
	}
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("deleting interface %s: %w", name, err)
	}
	return nil
}

func isLinkNotFound(err error) bool {
	var notFound netlink.LinkNotFoundError
	return errors.As(err, &notFound)
}

// addPair makes the pair with its inner end in the namespace from the first moment, so that there is no state
// in which that end is on the host. The hardware addresses are given: udev assigns others, at a time of its
// own, to interfaces whose address was random.
func (l *links) addPair(n *Network) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = n.HostInterface, n.MTU
	attrs.HardwareAddr = hardwareAddr(n.Name, "host")
	err := l.host.LinkAdd(&netlink.Veth{
		LinkAttrs:        attrs,
		PeerName:         nodeInterface,
		PeerMTU:          uint32(n.MTU),
		PeerHardwareAddr: hardwareAddr(n.Name, "node"),
		PeerNamespace:    netlink.NsFd(int(l.ns.Fd())),
	})
	if errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("making veth pair %s: %w; the kernel has no veth driver: load it with 'modprobe veth'",
			n.HostInterface, err)
	}
	if err != nil {
		return fmt.Errorf("making veth pair %s: %w", n.HostInterface, err)
	}
	return nil
}

// hardwareAddr is a locally administered unicast address that depends on the names alone.
func hardwareAddr(name, end string) net.HardwareAddr {
	sum := sha256.Sum256([]byte(name + "\x00" + end))
	mac := net.HardwareAddr(sum[:6])
	mac[0] = mac[0]&^0x01 | 0x02
	return mac
}

// configure gives both ends their addresses, sets them up and routes the node's traffic to the host. All of it
// may be there already.
func (l *links) configure(n *Network) error {
	outer, err := l.host.LinkByName(n.HostInterface)
	if err != nil {
		return fmt.Errorf("interface %s: %w", n.HostInterface, err)
	}
	if err := l.host.LinkSetAlias(outer, n.Name); err != nil {
		return fmt.Errorf("naming interface %s: %w", n.HostInterface, err)
	}
	if err := configureEnd(l.host, outer, n.HostAddr, n.MTU); err != nil {
		return err
	}

	lo, err := l.node.LinkByName("lo")
	if err == nil {
		err = l.node.LinkSetUp(lo)
	}
	if err != nil {
		return fmt.Errorf("setting lo up inside the namespace: %w", err)
	}
	inner, err := l.node.LinkByName(nodeInterface)
	if err != nil {
		return fmt.Errorf("interface %s inside the namespace: %w", nodeInterface, err)
	}
	if err := configureEnd(l.node, inner, n.NodeAddr, n.MTU); err != nil {
		return fmt.Errorf("inside the namespace: %w", err)
	}
	err = l.node.RouteReplace(&netlink.Route{
		LinkIndex: inner.Attrs().Index,
		Dst:       &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)},
		Gw:        n.HostAddr.AsSlice(),
	})
	if err != nil {
		return fmt.Errorf("setting the default route inside the namespace to %s: %w", n.HostAddr, err)
	}
	return nil
}

func configureEnd(h *netlink.Handle, link netlink.Link, addr netip.Addr, mtu int) error {
	name := link.Attrs().Name
	if link.Attrs().MTU != mtu {
		if err := h.LinkSetMTU(link, mtu); err != nil {
			return fmt.Errorf("setting the MTU of %s to %d: %w", name, mtu, err)
		}
	}
	ipNet := &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(linkBits, 32)}
	if err := h.AddrReplace(link, &netlink.Addr{IPNet: ipNet}); err != nil {
		return fmt.Errorf("giving %s address %s: %w", name, ipNet, err)
	}
	if err := h.LinkSetUp(link); err != nil {
		return fmt.Errorf("setting %s up: %w", name, err)
	}
	return nil
}

// usedPrefixes are the prefixes of the host's IPv4 addresses and the destinations of its routes, in every
// routing table.
func (l *links) usedPrefixes() ([]netip.Prefix, error) {
	addrs, err := dump(func() ([]netlink.Addr, error) { return l.host.AddrList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return nil, fmt.Errorf("listing the host's addresses: %w", err)
	}
	all := &netlink.Route{Table: unix.RT_TABLE_UNSPEC}
	routes, err := dump(func() ([]netlink.Route, error) {
		return l.host.RouteListFiltered(netlink.FAMILY_V4, all, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, fmt.Errorf("listing the host's routes: %w", err)
	}
	var used []netip.Prefix
	for _, a := range addrs {
		used = append(used, prefixOf(a.IPNet))
		if a.Peer != nil {
			used = append(used, prefixOf(a.Peer))
		}
	}
	for _, r := range routes {
		if r.Dst != nil {
			used = append(used, prefixOf(r.Dst))
		}
	}
	return used, nil
}

// prefixOf converts an IPv4 network; the zero prefix when it is none.
func prefixOf(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	addr, ok := netip.AddrFromSlice(n.IP.To4())
	ones, bits := n.Mask.Size()
	if !ok || bits != 32 {
		return netip.Prefix{}
	}
	return netip.PrefixFrom(addr, ones)
}

// dump repeats a netlink dump that the kernel marks as interrupted by a change, whose result may lack entries.
func dump[T any](list func() ([]T, error)) ([]T, error) {
	const attempts = 10
	var out []T
	var err error
	for range attempts {
		if out, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return out, err
}
