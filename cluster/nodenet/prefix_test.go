package nodenet

import (
	"net/netip"
	"strings"
	"testing"
)

func prefixes(ss ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range ss {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func TestChoosePrefix(t *testing.T) {
	const name = "orlop-a-n1"
	first, err := choosePrefix(name, netip.Prefix{}, nil)
	if err != nil || !isLinkPrefix(first) {
		t.Fatalf("choosePrefix = %v, %v", first, err)
	}
	again, err := choosePrefix(name, netip.Prefix{}, nil)
	if err != nil || again != first {
		t.Errorf("the same name got %v and then %v, %v", first, again, err)
	}
	other, err := choosePrefix("orlop-b-n1", netip.Prefix{}, nil)
	if err != nil || other == first {
		t.Errorf("another name got %v as well, %v", other, err)
	}
	kept := netip.MustParsePrefix("198.18.77.8/30")

	for _, tc := range []struct {
		name string
		kept netip.Prefix
		used []netip.Prefix
		want func(netip.Prefix) bool
	}{
		{"kept and free", kept, prefixes("198.18.77.4/30", "10.0.0.0/8"), func(p netip.Prefix) bool { return p == kept }},
		{"kept but an address is in it", kept, prefixes("198.18.77.9/32"), func(p netip.Prefix) bool { return p == first }},
		{"kept but routed away", kept, prefixes("198.18.77.0/24"), func(p netip.Prefix) bool { return p == first }},
		{"first choice taken", netip.Prefix{}, []netip.Prefix{first}, func(p netip.Prefix) bool { return !p.Overlaps(first) }},
		{"a wide part taken", netip.Prefix{}, prefixes("198.18.0.0/17", "198.18.128.0/18"), func(p netip.Prefix) bool {
			return netip.MustParsePrefix("198.18.192.0/18").Contains(p.Addr())
		}},
		{"routes that cover everything", kept, prefixes("0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1"),
			func(p netip.Prefix) bool { return p == kept }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := choosePrefix(name, tc.kept, tc.used)
			if err != nil || !isLinkPrefix(got) || !tc.want(got) {
				t.Errorf("choosePrefix = %v, %v", got, err)
			}
		})
	}

	_, err = choosePrefix(name, netip.Prefix{}, prefixes("198.18.0.0/16"))
	if err == nil || !strings.Contains(err.Error(), "ip route show table all") {
		t.Errorf("with the whole range taken: %v", err)
	}
}

func TestLinkPrefix(t *testing.T) {
	for i, want := range map[uint32]string{0: "198.18.0.0/30", 1: "198.18.0.4/30", linkCount - 1: "198.18.255.252/30",
		linkCount: "198.18.0.0/30"} {
		if got := linkPrefix(i).String(); got != want {
			t.Errorf("linkPrefix(%d) = %s, want %s", i, got, want)
		}
	}
	for _, bad := range []netip.Prefix{{}, netip.MustParsePrefix("198.18.0.1/30"), netip.MustParsePrefix("198.18.0.0/29"),
		netip.MustParsePrefix("10.0.0.0/30"), netip.MustParsePrefix("2001:db8::/30")} {
		if isLinkPrefix(bad) {
			t.Errorf("isLinkPrefix(%v)", bad)
		}
	}
}
