package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/orlop-io/orlop/cluster"
)

// TestHostMode runs a cluster without --netns on a host (a namespace that plays one) that has no default route and a
// name that resolves nowhere. The host's network is afterwards what it was before.
func TestHostMode(t *testing.T) {
	needRoot(t)
	host := newNamespace(t)
	network := func() string {
		return host.ip("-oneline", "link") + host.ip("-4", "route", "show", "table", "all") + host.ip("rule") +
			must(t, "nsenter", "--net="+host.path(), "nft", "list", "ruleset")
	}
	before := network()
	c := newCluster(t)
	c.in = host.enter()

	holdPort(c, host, 10250, func(pid int) {
		c.refused([]string{"port 10250", fmt.Sprintf("process %d", pid), "--netns"}, "up")
	})
	c.orlop("up")
	s := c.status()
	if s.Phase != cluster.PhaseReady || s.Netns != "" || s.NodeIP != host.addr {
		t.Errorf("the cluster is %s, in namespace %q, at %s", s.Phase, s.Netns, s.NodeIP)
	}
	if s.Node != "lone.test" {
		t.Errorf("the node is called %q", s.Node)
	}

	c.importImage("busybox")
	c.apply(volumePod("store", "16Mi", "") + "---" + strings.ReplaceAll(web, "CLUSTER", "the host"))
	c.waitReady("store")
	c.exec("store", "echo kept > /data/file")
	c.kubectl("rollout", "status", "deployment/web", "--timeout="+patience.String())
	const hello = "hello from the host\n"
	c.eventually("the Service answers a pod by name", func() error {
		got, err := c.try("kubectl", "exec", "store", "--", "wget", "-qO-", "http://web.default.svc.cluster.local/")
		if err != nil || got != hello {
			return fmt.Errorf("%q, %w", got, err)
		}
		return nil
	})
	c.eventually("the NodePort answers the host", func() error {
		return getInside(host.path(), "http://"+host.addr+":30001/", hello)
	})

	// As the API server does with a webhook.
	c.eventually("the Service answers the host", func() error {
		return getInside(host.path(), "http://"+c.get("service/web", ".spec.clusterIP")+"/", hello)
	})

	t.Run("2", func(t *testing.T) { secondOnTheHost(t, host, c) })

	c.orlop("down")
	if after := network(); after != before {
		t.Errorf("the host's network was\n%s\nand is after down\n%s", before, after)
	}
	c.orlop("up")
	c.eventuallySays([]string{"kept"}, "exec", "store", "--", "cat", "/data/file")
}

// secondOnTheHost tries a second cluster without --netns beside the first, which is refused, and then does as it is told.
func secondOnTheHost(t *testing.T, host *namespace, first *testCluster) {
	t.Helper()
	var apiServer int
	for _, x := range first.status().Components {
		if x.Name == "kube-apiserver" {
			apiServer = x.PID
		}
	}
	second := newCluster(t)
	second.in = host.enter()
	second.refused([]string{"port 6443", fmt.Sprintf("process %d", apiServer), "kube-apiserver", "orlop down", "--netns"}, "up")
	second.up()
	if s := second.status(); s.Netns == "" || s.Phase != cluster.PhaseReady {
		t.Errorf("the second cluster is %s, in namespace %q", s.Phase, s.Netns)
	}
}

// holdPort listens on a port of the namespace while fn runs with the holder's PID.
func holdPort(c *testCluster, n *namespace, port int, fn func(pid int)) {
	c.t.Helper()
	var listener net.Listener
	err := inside(n.path(), func() (err error) {
		listener, err = (&net.ListenConfig{}).Listen(context.Background(), "tcp4", fmt.Sprintf("127.0.0.1:%d", port))
		return err
	})
	if err != nil {
		c.t.Fatal(err)
	}
	fn(os.Getpid())
	if err := listener.Close(); err != nil {
		c.t.Fatal(err)
	}
}
