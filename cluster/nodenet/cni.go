package nodenet

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/orlop-io/orlop/cluster/file"
)

// CNIOptions describe a node's pod network.
type CNIOptions struct {
	// PodCIDR is the node's IPv4 range for pods, at least a /28.
	PodCIDR netip.Prefix
	// DataDir is where the host-local IPAM plugin keeps its leases: a directory of this node alone. The plugin's
	// default is shared by all clusters of a host, and one would free another's addresses.
	DataDir string
	// MTU of the pods' interfaces in bytes: that of the node's own link.
	MTU int
	// Backend with which host ports are mapped: "nftables" (also when empty) or "iptables", as kube-proxy's.
	Backend string
}

// cniConfigFile sorts before what an administrator might add: the runtime takes the first.
const cniConfigFile = "10-orlop.conflist"

// The CNI version whose features are used. From 1.1.0 on the runtime would also run the plugins' STATUS at
// every status request of the kubelet, which costs three processes each time and tells nothing here.
const cniVersion = "1.0.0"

type (
	cniList struct {
		CNIVersion string `json:"cniVersion"`
		Name       string `json:"name"`
		Plugins    []any  `json:"plugins"`
	}
	cniPTP struct {
		Type   string  `json:"type"`
		MTU    int     `json:"mtu,omitempty"`
		IPMasq bool    `json:"ipMasq"`
		IPAM   cniIPAM `json:"ipam"`
	}
	cniIPAM struct {
		Type    string       `json:"type"`
		DataDir string       `json:"dataDir"`
		Ranges  [][]cniRange `json:"ranges"`
		Routes  []cniRoute   `json:"routes"`
	}
	cniRange struct {
		Subnet netip.Prefix `json:"subnet"`
	}
	cniRoute struct {
		Dst netip.Prefix `json:"dst"`
	}
	cniPortmap struct {
		Type         string          `json:"type"`
		Backend      string          `json:"backend"`
		SNAT         bool            `json:"snat"`
		Capabilities map[string]bool `json:"capabilities"`
	}
)

// WriteCNI writes the pod network's configuration, 10-orlop.conflist, into the runtime's CNI directory dir,
// making dir when needed: plugins ptp, host-local and portmap. The file is replaced atomically, since the runtime
// watches it, and left alone when it says the same already.
//
// ptp does not masquerade: for each pod it would run nft several times and look for iptables, which tripled the
// time of an ADD and of a DEL on two cores (about 20 ms and 30 ms without). One rule for all pods does it instead, so
// a caller also needs [EnsurePodMasquerade]. No DNS is configured, for the kubelet writes pods' resolv.conf.
func WriteCNI(dir string, opts CNIOptions) error {
	const smallest = 28
	p := opts.PodCIDR
	switch {
	case !p.IsValid() || !p.Addr().Is4() || p != p.Masked() || p.Bits() > smallest:
		return fmt.Errorf("pod CIDR %v: it must be an IPv4 network of at least a /%d", p, smallest)
	case !filepath.IsAbs(opts.DataDir):
		return fmt.Errorf("IPAM directory %q: it must be absolute, for the plugins run in directories of their own",
			opts.DataDir)
	case opts.Backend != "" && opts.Backend != "nftables" && opts.Backend != "iptables":
		return fmt.Errorf("CNI backend %q: it must be nftables or iptables", opts.Backend)
	}
	if opts.Backend == "" {
		opts.Backend = "nftables"
	}
	ptp := cniPTP{
		Type: "ptp",
		MTU:  opts.MTU,
		IPAM: cniIPAM{
			Type:    "host-local",
			DataDir: opts.DataDir,
			Ranges:  [][]cniRange{{{Subnet: p}}},
			Routes:  []cniRoute{{Dst: netip.PrefixFrom(netip.IPv4Unspecified(), 0)}},
		},
	}
	portmap := cniPortmap{
		Type:         "portmap",
		Backend:      opts.Backend,
		SNAT:         true,
		Capabilities: map[string]bool{"portMappings": true},
	}
	list := cniList{CNIVersion: cniVersion, Name: "orlop", Plugins: []any{ptp, portmap}}
	content, err := json.MarshalIndent(list, "", "  ")
	if err != nil {
		return err
	}
	content = append(content, '\n')

	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("making the CNI directory: %w", err)
	}
	path := filepath.Join(dir, cniConfigFile)
	old, err := os.ReadFile(path)
	if err == nil && string(old) == string(content) {
		return nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("reading the CNI configuration: %w", err)
	}
	if err := file.Write(path, content, 0o644); err != nil {
		return fmt.Errorf("writing the CNI configuration: %w", err)
	}
	return nil
}
