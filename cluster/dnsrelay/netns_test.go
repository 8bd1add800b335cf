package dnsrelay

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/miekg/dns"

	"github.com/orlop-io/orlop/cluster/nodenet"
)

// TestFromANodesNamespace relays for real: from a node's namespace, where the host's loopback resolver cannot be
// reached, by the host's end of the link.
func TestFromANodesNamespace(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes a network namespace")
	}
	dir := t.TempDir()
	node, err := nodenet.Ensure(t.Context(), nodenet.Options{
		Name: fmt.Sprintf("orlop-test-dns-%d", os.Getpid()), StateFile: filepath.Join(dir, "network.json"),
	})
	must(t, err)
	defer func() { must(t, node.Delete(context.Background())) }()
	resolver, port := startResolver(t, "127.77.0.5", 0)
	resolvConf := filepath.Join(dir, "resolv.conf")
	writeResolvConf(t, resolvConf, resolver.addr)

	ctx, cancel := context.WithCancel(t.Context())
	s, err := listen(ctx, Config{Listen: node.HostAddr, Allow: node.Prefix, ResolvConf: resolvConf}, dnsPort)
	must(t, err)
	s.relay.port = fmt.Sprint(port)
	done := make(chan error, 1)
	go func() { done <- s.serve(ctx) }()
	defer func() { cancel(); must(t, <-done) }()

	for _, network := range []string{"udp", "tcp"} {
		must(t, node.Enter(func() error {
			// The client dials on this thread, an address: no resolver's goroutine comes in between.
			c := dns.Client{Net: network}
			conn, err := c.Dial(node.HostAddr.String() + ":53")
			if err != nil {
				return err
			}
			a, _, err := c.ExchangeWithConn(new(dns.Msg).SetQuestion("a.example.", dns.TypeA), conn)
			if err != nil {
				return err
			}
			if len(a.Answer) != 1 || a.Answer[0].(*dns.A).A.String() != resolver.addr {
				t.Errorf("%s: %v", network, a)
			}
			return conn.Close()
		}))
	}
}
