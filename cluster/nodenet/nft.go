package nodenet

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// offsets of the addresses in an IPv4 header (RFC 791 section 3.1).
const (
	sourceOffset      = 12
	destinationOffset = 16
)

// ensureEgress has what leaves the node's prefix by another interface than its own link take the address of that
// interface:
//
//	table ip <name> {
//		chain postrouting {
//			type nat hook postrouting priority srcnat
//			ip saddr <prefix> oifname != <host interface> masquerade fully-random
//		}
//	}
func ensureEgress(n *Network) error {
	rule := append(matchPrefix(sourceOffset, n.Prefix, expr.CmpOpEq),
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: interfaceName(n.HostInterface)},
		&expr.Masq{FullyRandom: true})
	return replaceTable(n.Name, rule)
}

// podTable names the table of [EnsurePodMasquerade].
func podTable(name string) string { return name + "-pods" }

// EnsurePodMasquerade has pods reach the world with their node's address: what comes from podCIDR and leaves it,
// multicast apart, takes the address of the interface by which it leaves. It is one rule for all pods, in place
// of the CNI plugins' ipMasq, which runs nft several times for every pod. It acts in the network namespace of the
// calling thread: for a node with a namespace of its own, call it from [Network.Enter]. The rule is in the table
// `ip <name>-pods` and goes with the namespace, or by [RemovePodMasquerade].
func EnsurePodMasquerade(name string, podCIDR netip.Prefix) error {
	if !validName.MatchString(name) || !podCIDR.IsValid() || !podCIDR.Addr().Is4() {
		return fmt.Errorf("masquerading pods: name %q, CIDR %v: want a network's name and an IPv4 network", name, podCIDR)
	}
	rule := slices.Concat(
		matchPrefix(sourceOffset, podCIDR, expr.CmpOpEq),
		matchPrefix(destinationOffset, podCIDR, expr.CmpOpNeq),
		matchPrefix(destinationOffset, netip.MustParsePrefix("224.0.0.0/4"), expr.CmpOpNeq),
		[]expr.Any{&expr.Masq{FullyRandom: true}})
	return replaceTable(podTable(name), rule)
}

// RemovePodMasquerade undoes [EnsurePodMasquerade] on a host whose network the node used. What is gone is no error.
func RemovePodMasquerade(name string) error { return removeTable(podTable(name)) }

// replaceTable puts one postrouting rule into a table of its own. Table, chain and rule are replaced in one
// transaction, so the rule is never absent, nor there twice.
func replaceTable(name string, rule []expr.Any) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("opening a netlink socket for nftables: %w", err)
	}
	table := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: name}
	conn.AddTable(table) // a delete of what is not there would fail the transaction
	conn.DelTable(table)
	conn.AddTable(table)
	chain := conn.AddChain(&nftables.Chain{
		Name:     "postrouting",
		Table:    table,
		Type:     nftables.ChainTypeNAT,
		Hooknum:  nftables.ChainHookPostrouting,
		Priority: nftables.ChainPriorityNATSource,
	})
	conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: rule})
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("writing nftables table ip %s: %w; the kernel needs nf_tables and nft_masq (see "+
			"'nft list ruleset')", name, err)
	}
	return nil
}

// removeTable deletes an IPv4 table, if there is one.
func removeTable(name string) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("opening a netlink socket for nftables: %w", err)
	}
	conn.DelTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: name})
	if err := conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("deleting nftables table ip %s: %w", name, err)
	}
	return nil
}

// matchPrefix compares the address at an offset of the IPv4 header with a prefix.
func matchPrefix(offset uint32, p netip.Prefix, op expr.CmpOp) []expr.Any {
	addr := p.Masked().Addr().As4()
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
		&expr.Bitwise{
			SourceRegister: 1, DestRegister: 1, Len: 4,
			Mask: binaryutil.BigEndian.PutUint32(^uint32(0) << (32 - p.Bits())),
			Xor:  make([]byte, 4),
		},
		&expr.Cmp{Op: op, Register: 1, Data: addr[:]},
	}
}

// interfaceName is a name as the kernel compares it: IFNAMSIZ bytes, padded with zeros.
func interfaceName(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}
