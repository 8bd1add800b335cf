package cluster

import (
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/coredns/caddy/caddyfile"
	proxyv1alpha1 "k8s.io/kube-proxy/config/v1alpha1"
	schedulerv1 "k8s.io/kube-scheduler/config/v1"
	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"
	"sigs.k8s.io/yaml"

	"github.com/orlop-io/orlop/cluster/preflight"
)

// A field that is misspelt or gone would make its component refuse to start.
func TestConfigurationsDecodeStrictly(t *testing.T) {
	c := newCluster(t)
	if err := c.writeConfigs(); err != nil {
		t.Fatal(err)
	}
	for name, into := range map[string]any{
		"kubelet.yaml":    &kubeletv1beta1.KubeletConfiguration{},
		"kube-proxy.yaml": &proxyv1alpha1.KubeProxyConfiguration{},
		"scheduler.yaml":  &schedulerv1.KubeSchedulerConfiguration{},
	} {
		data, err := os.ReadFile(c.configFile(name))
		if err != nil {
			t.Fatal(err)
		}
		if err := yaml.UnmarshalStrict(data, into); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if info, err := os.Stat(c.configFile(name)); err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: mode %v, %v", name, info.Mode(), err)
		}
	}
}

func TestKubeletIsItsNodes(t *testing.T) {
	c := newCluster(t)
	var k kubeletv1beta1.KubeletConfiguration
	data, err := yaml.Marshal(c.kubeletConfig())
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(data, &k); err != nil {
		t.Fatal(err)
	}
	if k.CgroupRoot != "/orlop/0a1b2c3d/worker-1" || !strings.HasPrefix(k.PodLogsDir, c.nodeDir()) || k.Address != "198.18.0.2" {
		t.Errorf("cgroup root %s, pod logs %s, address %s", k.CgroupRoot, k.PodLogsDir, k.Address)
	}
	if *k.Authentication.Anonymous.Enabled || !*k.Authentication.Webhook.Enabled || k.Authorization.Mode != "Webhook" || k.ReadOnlyPort != 0 {
		t.Errorf("authentication %+v, authorization %+v, read-only port %d", k.Authentication, k.Authorization, k.ReadOnlyPort)
	}
	if !slices.Equal(k.ClusterDNS, []string{"198.19.128.10"}) {
		t.Errorf("cluster DNS %v", k.ClusterDNS)
	}
}

func TestCorefile(t *testing.T) {
	for _, tt := range []struct {
		name     string
		upstream []string
		forward  []string // tokens of the forward directive
	}{
		{"no resolver on the host", nil, nil},
		{"one", []string{"198.18.0.1"}, []string{"forward", ".", "198.18.0.1", "{", "max_concurrent", "1000", "}"}},
		{"several", []string{"192.0.2.1", "192.0.2.2"},
			[]string{"forward", ".", "192.0.2.1", "192.0.2.2", "{", "max_concurrent", "1000", "}"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newCluster(t, func(c *Cluster) {
				c.DataDir += "/with a space"
				c.net.Upstream = tt.upstream
			})
			blocks, err := caddyfile.Parse("Corefile", strings.NewReader(string(c.corefile())), nil)
			if err != nil {
				t.Fatal(err)
			}
			if len(blocks) != 1 || !slices.Equal(blocks[0].Keys, []string{".:10053"}) {
				t.Fatalf("blocks %+v", blocks)
			}
			tokens := func(directive string) []string {
				var out []string
				for _, token := range blocks[0].Tokens[directive] {
					out = append(out, token.Text)
				}
				return out
			}
			if got := tokens("forward"); !slices.Equal(got, tt.forward) {
				t.Errorf("forwards by %q, want %q", got, tt.forward)
			}
			if got := tokens("bind"); !slices.Equal(got, []string{"bind", "198.18.0.2"}) {
				t.Errorf("binds by %q", got)
			}
			if got := tokens("kubernetes"); !slices.Contains(got, c.kubeconfigOf("dns")) {
				t.Errorf("the kubeconfig's path is not one word: %q", got)
			}
		})
	}
}

func TestResolvConfOfPods(t *testing.T) {
	c := newCluster(t, func(c *Cluster) { c.net.Upstream = []string{"192.0.2.1", "127.0.0.53"} })
	// A loopback of the host is another machine's from a pod.
	if got := string(c.resolvConf()); got != "nameserver 192.0.2.1\n" {
		t.Errorf("got %q", got)
	}
}

func TestContainerdConfig(t *testing.T) {
	for _, restrict := range []bool{false, true} {
		c := newCluster(t, func(c *Cluster) { c.facts = preflight.Facts{RestrictOOM: restrict} })
		data, err := c.containerdConfig()
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{c.ContainerdSocket(), c.containerdDir(), c.runtimeState(), c.cniConfDir(), c.bin("cni"),
			c.registryDir()} {
			if !strings.Contains(string(data), `"`+want+`"`) {
				t.Errorf("%s is not in the configuration", want)
			}
		}
		if got := strings.Contains(string(data), "restrict_oom_score_adj = true"); got != restrict {
			t.Errorf("restrict_oom_score_adj is %t, want %t", got, restrict)
		}
	}
	c := newCluster(t)
	c.BinDir = t.TempDir()
	if _, err := c.containerdConfig(); err == nil || !strings.Contains(err.Error(), "make build") {
		t.Errorf("without a pause program: %v", err)
	}
}

func TestManifestsDecode(t *testing.T) {
	for name, change := range map[string]func(*Cluster){"own storage": func(*Cluster) {}, "plain": plain} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, change)
			objects, err := c.manifests()
			if err != nil {
				t.Fatal(err)
			}
			kinds := map[string]string{}
			for _, o := range objects {
				if o.GetAPIVersion() == "" || o.GetKind() == "" || o.GetName() == "" {
					t.Errorf("an object without a name or kind: %v", o)
				}
				kinds[o.GetKind()+"/"+o.GetName()] = o.GetNamespace()
			}
			if kinds["Service/kube-dns"] != "kube-system" {
				t.Errorf("there is no kube-dns Service: %v", kinds)
			}
			_, class := kinds["StorageClass/local"]
			_, driver := kinds["CSIDriver/"+localDriver]
			if class == c.state.Plain || driver == c.state.Plain {
				t.Errorf("with plain=%t: StorageClass %t, CSIDriver %t", c.state.Plain, class, driver)
			}
		})
	}
}

func TestNetwork(t *testing.T) {
	in := newCluster(t).net
	host := Network{NodeIP: netip.MustParseAddr("192.0.2.7"), Pods: hostPods, Services: hostServices}
	for _, tt := range []struct{ what, got, want string }{
		{"API server's Service in a namespace", in.kubernetesIP().String(), "198.19.128.1"},
		{"DNS in a namespace", in.dnsIP().String(), "198.19.128.10"},
		{"API in a namespace", in.apiURL(), "https://198.18.0.2:6443"},
		{"API server's Service", host.kubernetesIP().String(), "10.43.0.1"},
		{"DNS", host.dnsIP().String(), "10.43.0.10"},
		// Loopback: a machine that changes networks keeps its kubeconfig.
		{"API", host.apiURL(), "https://127.0.0.1:6443"},
	} {
		if tt.got != tt.want {
			t.Errorf("%s: %s, want %s", tt.what, tt.got, tt.want)
		}
	}
	if nsPods.Overlaps(nsServices) || hostPods.Overlaps(hostServices) {
		t.Error("pods and Services overlap")
	}
	links := netip.MustParsePrefix("198.18.0.0/16")
	if links.Overlaps(nsPods) || links.Overlaps(nsServices) {
		t.Error("links of nodes overlap with pods or Services")
	}
	if got := listenersOf(true); len(got) != 0 {
		t.Errorf("a cluster with a namespace needs %v free on the host", got)
	}
	ports := listenersOf(false)
	slices.Sort(ports)
	if len(slices.Compact(ports)) != 10 {
		t.Errorf("listeners %v", ports)
	}
}
