// Package nodenet gives a cluster node its network.
//
// With `orlop up --netns` a node, control plane included, lives in a network namespace of its own: [Ensure]
// makes the namespace (named, so that `ip netns` shows it), a veth pair to the host with a /30 out of
// 198.18.0.0/16, the default route, and the masquerading that lets the node out. Several such clusters run
// side by side. Without it the node uses the host's network and [HostNode] finds its address. [WriteCNI]
// writes the pod network's configuration, the same in both cases; [EnsurePodMasquerade] lets pods out.
//
// What is made, all named after the cluster: the namespace /run/netns/<name>, the host's end of the veth
// (alias <name>), the nftables table `ip <name>`. [Network.Delete] removes all three. One thing outlives it:
// net.ipv4.ip_forward, when it was off on the host, is switched on and stays on, as with every container
// engine, because whoever started to rely on it meanwhile cannot be told; see [Network.ForwardingEnabled].
//
// The package starts no process and moves none. [Enter] runs code inside a namespace.
package nodenet

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path/filepath"
	"regexp"
)

// Options say which network [Ensure] makes.
type Options struct {
	// Name is the name of the namespace and of all that belongs to it, unique on the host, such as
	// orlop-<clusterid>-<node>: lower-case letters, digits, dots and dashes, at most 63 bytes, beginning
	// with a letter.
	Name string
	// StateFile keeps the prefix, so that the node has the same address after a reboot. It belongs in the
	// data directory, which must exist.
	StateFile string
	// MTU of the veth in bytes; 0 takes that of the interface with the host's default route, or 1500.
	MTU int
}

// Network is a node's network namespace and its link to the host. Its methods may be called concurrently.
type Network struct {
	// Name is the one given in [Options].
	Name string
	// NetnsPath is the file that setns(2) and `nsenter --net=` take.
	NetnsPath string
	// Prefix is the /30 of the link, HostAddr the host's address in it, NodeAddr the node's.
	Prefix   netip.Prefix
	HostAddr netip.Addr
	NodeAddr netip.Addr
	// HostInterface is the host's end of the veth; the node's end is eth0.
	HostInterface string
	// MTU of the link in bytes; 0 after [Load], which does not look at it.
	MTU int
	// ForwardingEnabled says that this call of Ensure found net.ipv4.ip_forward off on the host and switched it
	// on, where it stays.
	ForwardingEnabled bool

	stateFile string
}

// nodeInterface is the node's end of the veth. It must not be one of the names that CNI gives to pods' host
// ends (veth…), and eth0 is what people look for.
const nodeInterface = "eth0"

// linkNamePrefix begins the name of every host's end of a link.
const linkNamePrefix = "orl"

var validName = regexp.MustCompile(`^[a-z]([a-z0-9.-]{0,61}[a-z0-9])?$`)

func newNetwork(name, stateFile string, prefix netip.Prefix) *Network {
	n := &Network{
		Name:          name,
		NetnsPath:     filepath.Join(netnsDir, name),
		HostInterface: hostInterface(name),
		stateFile:     stateFile,
	}
	n.setPrefix(prefix)
	return n
}

func (n *Network) setPrefix(p netip.Prefix) {
	n.Prefix = p
	n.HostAddr = p.Addr().Next()
	n.NodeAddr = n.HostAddr.Next()
}

// hostInterface derives an interface name, which has 15 bytes at most, from a name that is longer.
func hostInterface(name string) string {
	sum := sha256.Sum256([]byte(name))
	return linkNamePrefix + hex.EncodeToString(sum[:5])
}

// Ensure makes the network, or completes one that a killed predecessor left half-made; a whole one is left
// as it is, connections included. The prefix in the state file is taken again if the host does not use it
// otherwise by now; else a free one is chosen, so callers compare NodeAddr with what they issued certificates
// for. Clusters that start side by side are kept apart by a lock on /run/netns, waited for until ctx is done.
// "The host" is the network namespace of the calling thread.
func Ensure(ctx context.Context, opts Options) (*Network, error) {
	if !validName.MatchString(opts.Name) {
		return nil, fmt.Errorf("network name %q: use lower-case letters, digits, dots and dashes, at most 63, "+
			"beginning with a letter", opts.Name)
	}
	unlock, err := lockHost(ctx)
	if err != nil {
		return nil, err
	}
	n, err := ensureLocked(opts)
	if err = errors.Join(err, unlock()); err != nil {
		return nil, fmt.Errorf("making network namespace %s: %w", opts.Name, err)
	}
	return n, nil
}

func ensureLocked(opts Options) (_ *Network, err error) {
	kept, err := readState(opts.StateFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	case kept.Name != opts.Name:
		return nil, fmt.Errorf("%s belongs to network %s; remove that cluster first, or give this one a data "+
			"directory of its own", opts.StateFile, kept.Name)
	}
	n := newNetwork(opts.Name, opts.StateFile, kept.Prefix)

	ns, err := ensureNetns(n.NetnsPath)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, ns.Close()) }()
	l, err := openLinks(ns)
	if err != nil {
		return nil, err
	}
	defer l.close()

	n.MTU = opts.MTU
	if n.MTU == 0 {
		if n.MTU, err = l.uplinkMTU(); err != nil {
			return nil, err
		}
	}
	if !kept.Prefix.IsValid() || !l.intact(n) {
		if err := l.removePair(n); err != nil {
			return nil, err
		}
		used, err := l.usedPrefixes()
		if err != nil {
			return nil, err
		}
		prefix, err := choosePrefix(opts.Name, kept.Prefix, used)
		if err != nil {
			return nil, err
		}
		n.setPrefix(prefix)
		// Before the link exists: a kill in between costs nothing, the prefix is simply taken next time.
		if err := writeState(opts.StateFile, state{Name: n.Name, Prefix: prefix}); err != nil {
			return nil, err
		}
		if err := l.addPair(n); err != nil {
			return nil, err
		}
	}
	if err := l.configure(n); err != nil {
		return nil, err
	}
	if err := n.Enter(setNodeSysctls); err != nil {
		return nil, err
	}
	if n.ForwardingEnabled, err = setHostSysctls(n.HostInterface); err != nil {
		return nil, err
	}
	if err := ensureEgress(n); err != nil {
		return nil, err
	}
	return n, nil
}

// Load returns the network that the state file describes, without looking whether it is up: for commands that
// only enter or delete it. The error is [fs.ErrNotExist] when there never was one.
func Load(stateFile string) (*Network, error) {
	s, err := readState(stateFile)
	if err != nil {
		return nil, err
	}
	return newNetwork(s.Name, stateFile, s.Prefix), nil
}

// Delete removes the link, the nftables table and the namespace. The state file stays, so that the next
// [Ensure] takes the same address; it goes with the data directory. What is gone already is no error. A process
// still inside keeps the nameless namespace, without its link, until it exits.
func (n *Network) Delete(ctx context.Context) error {
	unlock, err := lockHost(ctx)
	if err != nil {
		return err
	}
	err = errors.Join(
		removeHostLink(n.HostInterface),
		removeTable(n.Name),
		removeNetns(n.NetnsPath),
		unlock(),
	)
	if err != nil {
		return fmt.Errorf("deleting network namespace %s: %w", n.Name, err)
	}
	return nil
}
