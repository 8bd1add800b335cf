package nodenet

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

func TestSideBySide(t *testing.T) {
	const count = 6
	var opts [count]Options
	var nets [count]*Network
	for i := range opts {
		opts[i] = newTestNet(t)
		// All want the same prefix: only the lock keeps them apart.
		must(t, writeState(opts[i].StateFile, state{Name: opts[i].Name, Prefix: netip.MustParsePrefix("198.18.9.8/30")}))
	}
	var wg sync.WaitGroup
	for i := range opts {
		wg.Go(func() {
			var err error
			if nets[i], err = Ensure(t.Context(), opts[i]); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	seen := map[netip.Prefix]string{}
	for _, n := range nets {
		if n == nil {
			continue
		}
		defer remove(t, n)
		if other, ok := seen[n.Prefix]; ok {
			t.Errorf("%s and %s both have %s", n.Name, other, n.Prefix)
		}
		seen[n.Prefix] = n.Name
		exchange(t, n)
	}
}

func TestAddressTakenMeanwhile(t *testing.T) {
	opts := newTestNet(t)
	n := ensure(t, opts)
	remove(t, n)
	// Somebody else uses the prefix now: a second network, told to.
	thief := newTestNet(t)
	must(t, writeState(thief.StateFile, state{Name: thief.Name, Prefix: n.Prefix}))
	other := ensure(t, thief)
	defer remove(t, other)
	if other.Prefix != n.Prefix {
		t.Fatalf("the kept prefix %s was not taken: %s", n.Prefix, other.Prefix)
	}
	back := ensure(t, opts)
	defer remove(t, back)
	if back.Prefix.Overlaps(other.Prefix) {
		t.Fatalf("both have %s", back.Prefix)
	}
	exchange(t, back)
	kept, err := Load(opts.StateFile)
	if err != nil || kept.Prefix != back.Prefix {
		t.Errorf("the state file keeps %v, %v; want %v", kept, err, back.Prefix)
	}
}

func TestEnsureRefuses(t *testing.T) {
	opts := newTestNet(t)
	for _, name := range []string{"", "9lives", "../x", "Orlop", "a b", "-x", "x-", strings.Repeat("x", 64)} {
		if _, err := Ensure(t.Context(), Options{Name: name, StateFile: opts.StateFile}); err == nil {
			t.Errorf("name %q was accepted", name)
		}
	}
	must(t, writeState(opts.StateFile, state{Name: "orlop-other", Prefix: linkPrefix(1)}))
	if _, err := Ensure(t.Context(), opts); err == nil || !strings.Contains(err.Error(), "belongs to network orlop-other") {
		t.Errorf("with another network's state file: %v", err)
	}

	unlock, err := lockHost(t.Context())
	must(t, err)
	defer func() { must(t, unlock()) }()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Ensure(ctx, opts); err == nil || !strings.Contains(err.Error(), "lock") {
		t.Errorf("with the lock held and the context done: %v", err)
	}
}

// TestEgress plays the Internet: a second namespace, linked to the host, that has no route to the node. It
// answers only because the node's connections come with the host's address.
func TestEgress(t *testing.T) {
	n := ensure(t, newTestNet(t))
	defer remove(t, n)
	world := ensure(t, newTestNet(t))
	defer remove(t, world)
	must(t, world.Enter(func() error { // nothing but its own link
		return netlink.RouteDel(&netlink.Route{Dst: &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}})
	}))
	if from := dialFrom(t, n.Enter, world); from != world.HostAddr.String() {
		t.Errorf("the outside sees the node as %s, want %s", from, world.HostAddr)
	}

	// A pod: one more namespace behind the node, as ptp makes it.
	podIP, gateway := netip.MustParseAddr("198.19.7.2"), netip.MustParseAddr("198.19.7.1")
	pod := addPod(t, n, podIP, gateway)
	must(t, n.Enter(func() error { return EnsurePodMasquerade(n.Name, netip.MustParsePrefix("198.19.7.0/24")) }))
	if from := dialFrom(t, pod.Enter, world); from != world.HostAddr.String() {
		t.Errorf("the outside sees the pod as %s, want %s", from, world.HostAddr)
	}
	if from := dialFrom(t, pod.Enter, n); from != podIP.String() {
		t.Errorf("the node sees the pod as %s, want its own address %s", from, podIP)
	}
}

// dialFrom connects to a listener in the server's namespace and tells which address that listener saw.
func dialFrom(t *testing.T, enter func(func() error) error, server *Network) string {
	t.Helper()
	return dialPort(t, enter, server, server.NodeAddr.String()+":0", netip.AddrPort{})
}

// dialPort is dialFrom with a given address to listen at, and to dial unless that is the same.
func dialPort(t *testing.T, enter func(func() error) error, server *Network, at string, to netip.AddrPort) string {
	t.Helper()
	var l net.Listener
	must(t, server.Enter(func() (err error) { l, err = net.Listen("tcp", at); return err }))
	target := l.Addr().String()
	if to.IsValid() {
		target = to.String()
	}
	defer closeAll(t, l)
	seen := make(chan string, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			seen <- err.Error()
			return
		}
		defer closeAll(t, c)
		host, _, err := net.SplitHostPort(c.RemoteAddr().String())
		if err != nil {
			host = err.Error()
		}
		seen <- host
	}()
	must(t, enter(func() error {
		c, err := net.DialTimeout("tcp", target, 10*time.Second)
		if err != nil {
			return err
		}
		return c.Close()
	}))
	return <-seen
}

func addPod(t *testing.T, n *Network, podIP, gateway netip.Addr) *Network {
	t.Helper()
	pod := newNetwork(n.Name+"-pod", "", linkPrefix(0))
	ns, err := ensureNetns(pod.NetnsPath)
	must(t, err)
	t.Cleanup(func() { must(t, removeNetns(pod.NetnsPath)) })
	defer closeAll(t, ns)
	must(t, n.Enter(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "veth0"
		pair := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(ns.Fd()))}
		if err := netlink.LinkAdd(pair); err != nil {
			return err
		}
		outer, err := netlink.LinkByName("veth0")
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(outer, &netlink.Addr{IPNet: host32(gateway)}); err != nil {
			return err
		}
		if err := netlink.LinkSetUp(outer); err != nil {
			return err
		}
		toPod := &netlink.Route{LinkIndex: outer.Attrs().Index, Dst: host32(podIP), Scope: netlink.SCOPE_LINK}
		return netlink.RouteAdd(toPod)
	}))
	inner, err := netlink.NewHandleAt(netns.NsHandle(ns.Fd()))
	must(t, err)
	defer inner.Close()
	eth0, err := inner.LinkByName("eth0")
	must(t, err)
	must(t, inner.AddrAdd(eth0, &netlink.Addr{IPNet: host32(podIP)}))
	must(t, inner.LinkSetUp(eth0))
	index := eth0.Attrs().Index
	must(t, inner.RouteAdd(&netlink.Route{LinkIndex: index, Dst: host32(gateway), Scope: netlink.SCOPE_LINK}))
	must(t, inner.RouteAdd(&netlink.Route{LinkIndex: index, Gw: gateway.AsSlice(),
		Dst: &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}}))
	return pod
}

func host32(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(32, 32)}
}

// TestTableText has nft, another reader of the same kernel tables, print what was written over netlink.
func TestTableText(t *testing.T) {
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("needs nft")
	}
	n := ensure(t, newTestNet(t))
	defer remove(t, n)
	out, err := exec.Command("nft", "list", "table", "ip", n.Name).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	want := fmt.Sprintf("ip saddr %s oifname != %q masquerade fully-random", n.Prefix, n.HostInterface)
	if !strings.Contains(string(out), want) || !strings.Contains(string(out), "postrouting priority srcnat") {
		t.Errorf("the table has no rule %q:\n%s", want, out)
	}
	must(t, n.Enter(func() error { return EnsurePodMasquerade(n.Name, netip.MustParsePrefix("198.19.0.0/24")) }))
	must(t, n.Enter(func() error {
		out, err = exec.Command("nft", "list", "table", "ip", podTable(n.Name)).CombinedOutput()
		return err
	}))
	want = "ip saddr 198.19.0.0/24 ip daddr != 198.19.0.0/24 ip daddr != 224.0.0.0/4 masquerade fully-random"
	if !strings.Contains(string(out), want) {
		t.Errorf("the pods' table has no rule %q:\n%s", want, out)
	}
	must(t, n.Enter(func() error { return RemovePodMasquerade(n.Name) }))
	must(t, n.Enter(func() error { return RemovePodMasquerade(n.Name) })) // gone already
	if err := EnsurePodMasquerade("UPPER", netip.MustParsePrefix("198.19.0.0/24")); err == nil {
		t.Error("a bad name was accepted")
	}
}

func TestWriteCNI(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "net.d")
	opts := CNIOptions{PodCIDR: netip.MustParsePrefix("198.19.0.0/24"), DataDir: "/data/ipam", MTU: 1450}
	must(t, WriteCNI(dir, opts))
	file := filepath.Join(dir, cniConfigFile)
	first, err := os.Stat(file)
	must(t, err)
	content, err := os.ReadFile(file)
	must(t, err)
	for _, want := range []string{`"cniVersion": "1.0.0"`, `"type": "ptp"`, `"mtu": 1450`, `"ipMasq": false`,
		`"subnet": "198.19.0.0/24"`, `"dst": "0.0.0.0/0"`, `"dataDir": "/data/ipam"`, `"portMappings": true`,
		`"backend": "nftables"`} {
		if !strings.Contains(string(content), want) {
			t.Errorf("%s is not in:\n%s", want, content)
		}
	}
	must(t, WriteCNI(dir, opts))
	second, err := os.Stat(file)
	must(t, err)
	if !os.SameFile(first, second) {
		t.Error("an unchanged file was written again")
	}
	opts.Backend = "iptables"
	must(t, WriteCNI(dir, opts))
	content, err = os.ReadFile(file)
	must(t, err)
	if !strings.Contains(string(content), `"backend": "iptables"`) {
		t.Errorf("the backend is not the one given:\n%s", content)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("the directory holds %v, %v; want one file", entries, err)
	}

	for name, bad := range map[string]CNIOptions{
		"no CIDR":       {DataDir: "/d"},
		"unmasked CIDR": {DataDir: "/d", PodCIDR: netip.MustParsePrefix("198.19.0.1/24")},
		"tiny CIDR":     {DataDir: "/d", PodCIDR: netip.MustParsePrefix("198.19.0.0/30")},
		"IPv6 CIDR":     {DataDir: "/d", PodCIDR: netip.MustParsePrefix("fd00::/24")},
		"relative IPAM": {DataDir: "d", PodCIDR: opts.PodCIDR},
		"backend":       {DataDir: "/d", PodCIDR: opts.PodCIDR, Backend: "ipvs"},
	} {
		if err := WriteCNI(dir, bad); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}
