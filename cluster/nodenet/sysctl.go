package nodenet

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const ipv4 = "/proc/sys/net/ipv4"

// setNodeSysctls must run inside the namespace: /proc/sys/net shows the reading thread's.
//
// Forwarding is what makes a node route for its pods. Reverse path filtering is loose (2, RFC 3704 section 2.4)
// because the way back to a pod need not be the way a packet came once Services translate addresses; the
// kernel applies the larger of "all" and the interface's own value, so "all" decides for interfaces to come.
func setNodeSysctls() error {
	for _, s := range []struct{ name, value string }{
		{"ip_forward", "1"},
		{"conf/all/rp_filter", "2"},
		{"conf/default/rp_filter", "2"},
	} {
		if _, err := setSysctl(s.name, s.value); err != nil {
			return fmt.Errorf("inside the namespace: %w", err)
		}
	}
	return nil
}

// setHostSysctls has the host route for the node, and filters strictly on the node's link, behind which there
// is one address. It tells whether forwarding was off before.
func setHostSysctls(hostInterface string) (forwardingEnabled bool, err error) {
	if forwardingEnabled, err = setSysctl("ip_forward", "1"); err != nil {
		return false, fmt.Errorf("%w; set it with 'sysctl -w net.ipv4.ip_forward=1'", err)
	}
	if _, err := setSysctl(filepath.Join("conf", hostInterface, "rp_filter"), "1"); err != nil {
		return false, err
	}
	return forwardingEnabled, nil
}

// setSysctl writes a value that is not there yet, so that a read-only /proc/sys is in order as long as the
// values are.
func setSysctl(name, value string) (changed bool, err error) {
	file := filepath.Join(ipv4, name)
	old, err := os.ReadFile(file)
	if err != nil {
		return false, err
	}
	if strings.TrimSpace(string(old)) == value {
		return false, nil
	}
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return false, err
	}
	_, err = f.WriteString(value)
	return true, errors.Join(err, f.Close())
}
