// Package dns is the bundled cluster's name server: CoreDNS with the plugins a cluster needs, and none of those
// that bring a cloud provider's client with them.
package dns

import (
	"github.com/coredns/coredns/coremain"
	_ "github.com/coredns/coredns/plugin/bind"        // listen on the node's address alone
	_ "github.com/coredns/coredns/plugin/cache"       // answers from outside
	_ "github.com/coredns/coredns/plugin/errors"      // log failures
	_ "github.com/coredns/coredns/plugin/forward"     // names outside the cluster
	_ "github.com/coredns/coredns/plugin/kubernetes"  // Services and pods
	_ "github.com/coredns/coredns/plugin/loadbalance" // shuffle a headless Service's addresses
	_ "github.com/coredns/coredns/plugin/ready"       // readiness
)

// Run serves until a signal ends it; it takes CoreDNS's own command line from os.Args and exits on errors.
func Run() { coremain.Run() }
