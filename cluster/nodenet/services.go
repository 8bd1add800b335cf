package nodenet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// routeProtocol marks the routes of this package, as `ip route` shows it ("proto 111"): one of the numbers that
// rtnetlink leaves to administrators.
const routeProtocol = 111

// EnsureServiceRoute lets processes of a host without a default route reach Services. kube-proxy rewrites the address
// of such a packet to that of a pod, but the kernel looks for a route first, and where there is none for the
// Service's address the packet is never made. Where there is a default route nothing is done.
//
// It acts in the network namespace of the calling thread, and a route that is there already is no error.
func EnsureServiceRoute(services netip.Prefix, node Host) error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("opening a netlink socket: %w", err)
	}
	defer h.Close()
	routes, err := defaultRoutes(h)
	if err != nil || len(routes) > 0 {
		return err
	}
	link, err := h.LinkByName(node.Interface)
	if err != nil {
		return fmt.Errorf("interface %s: %w", node.Interface, err)
	}
	route := serviceRoute(services)
	route.LinkIndex, route.Src = link.Attrs().Index, node.Addr.AsSlice()
	if err := h.RouteReplace(route); err != nil {
		return fmt.Errorf("adding a route to Services, %s by %s: %w", services, node.Interface, err)
	}
	return nil
}

// RemoveServiceRoute undoes EnsureServiceRoute; without such a route it does nothing.
func RemoveServiceRoute(ctx context.Context, services netip.Prefix) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	err := netlink.RouteDel(serviceRoute(services))
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("removing the route to Services, %s: %w", services, err)
	}
	return nil
}

func serviceRoute(services netip.Prefix) *netlink.Route {
	return &netlink.Route{
		Dst: &net.IPNet{
			IP: services.Addr().AsSlice(), Mask: net.CIDRMask(services.Bits(), services.Addr().BitLen()),
		},
		Protocol: routeProtocol,
		Scope:    netlink.SCOPE_LINK, // which a deletion must name, too
	}
}
