package nodenet

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/netip"
)

// linkNet is the lower half of the range that RFC 2544 sets aside for tests of network devices: no host on the
// Internet has an address in it, and home, office and cloud networks do not use it. The upper half is for pods
// and Services, which never leave a node's namespace.
var linkNet = netip.MustParsePrefix("198.18.0.0/16")

const (
	linkBits  = 30
	linkCount = 1 << (linkBits - 16)
)

// isLinkPrefix tells whether p is one of the /30 that links are given.
func isLinkPrefix(p netip.Prefix) bool {
	return p.IsValid() && p.Bits() == linkBits && p == p.Masked() && linkNet.Contains(p.Addr())
}

// linkPrefix is the i-th /30 of linkNet.
func linkPrefix(i uint32) netip.Prefix {
	base := linkNet.Addr().As4()
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], binary.BigEndian.Uint32(base[:])+(i%linkCount)<<(32-linkBits))
	return netip.PrefixFrom(netip.AddrFrom4(a), linkBits)
}

// choosePrefix returns the kept prefix, if there is one and nothing in used overlaps it, else the first free
// one from a place that depends on the name, so that clusters of which only one runs at a time rarely want the
// same.
//
// Routes that are wider than linkNet do not count as use: a default route, or the two halves
// 0.0.0.0/1 and 128.0.0.0/1 that VPNs install, cover everything and speak of nothing in particular.
func choosePrefix(name string, kept netip.Prefix, used []netip.Prefix) (netip.Prefix, error) {
	free := func(p netip.Prefix) bool {
		for _, u := range used {
			if u.Bits() >= linkNet.Bits() && u.Overlaps(p) {
				return false
			}
		}
		return true
	}
	if kept.IsValid() && free(kept) {
		return kept, nil
	}
	sum := sha256.Sum256([]byte(name))
	start := binary.BigEndian.Uint32(sum[:])
	for i := range uint32(linkCount) {
		if p := linkPrefix(start + i); free(p) {
			return p, nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("no free /%d is left in %s: the host's addresses and routes cover it all "+
		"(see 'ip route show table all'); remove a route, or run without --netns", linkBits, linkNet)
}
