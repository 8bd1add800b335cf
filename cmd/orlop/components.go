package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"          // --logging-format=json
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // client metrics
	_ "k8s.io/component-base/metrics/prometheus/version"  // version metric
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	"k8s.io/kubernetes/pkg/volume"

	"github.com/orlop-io/orlop/cluster/dns"
	"github.com/orlop-io/orlop/cluster/kubelet"
	"github.com/orlop-io/orlop/cluster/kubelet/volumes"
)

// liveConfig puts live configuration volumes into the kubelet.
func liveConfig(n kubelet.Node, plugins []volume.VolumePlugin) []volume.VolumePlugin {
	return volumes.Replace(volumes.Config{RuntimeEndpoint: n.RuntimeEndpoint, NodeIP: n.IP}, plugins)
}

// components are the upstream programs this binary holds, by the first argument that selects them. Each
// runs as a process of its own: they share globals (signal handlers, feature gates, metrics) that clash
// in one.
var components = map[string]func() int{
	"etcd":                    func() int { etcdmain.Main(os.Args); return 0 },
	"kube-apiserver":          func() int { return cli.Run(apiserver.NewAPIServerCommand()) },
	"kube-controller-manager": func() int { return cli.Run(controllermanager.NewControllerManagerCommand()) },
	"kube-scheduler":          func() int { return cli.Run(scheduler.NewSchedulerCommand()) },
	"kubelet":                 func() int { return cli.Run(kubelet.NewCommand(liveConfig)) },
	"kube-proxy":              func() int { return cli.Run(proxy.NewProxyCommand()) },
	"dns":                     func() int { dns.Run(); return 0 },
}
