package nodenet

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// pluginDir is where `make build` puts the CNI plugins.
const pluginDir = "../../bin/cni"

// TestPlugins runs the real plugins with the configuration that WriteCNI writes, as the runtime does.
func TestPlugins(t *testing.T) {
	for _, name := range []string{"ptp", "host-local", "portmap"} {
		if _, err := os.Stat(filepath.Join(pluginDir, name)); err != nil {
			t.Skipf("needs the CNI plugins, see 'make build': %v", err)
		}
	}
	n := ensure(t, newTestNet(t))
	defer remove(t, n)
	world := ensure(t, newTestNet(t))
	defer remove(t, world)
	opts := CNIOptions{
		PodCIDR: netip.MustParsePrefix("198.19.9.0/24"), DataDir: t.TempDir(), MTU: 1400,
	}
	confDir := t.TempDir()
	must(t, WriteCNI(confDir, opts))
	must(t, n.Enter(func() error { return EnsurePodMasquerade(n.Name, opts.PodCIDR) }))
	one, two := addSandbox(t, n, "one"), addSandbox(t, n, "two")
	const hostPort = 30080
	firstIP := runPlugins(t, n, one, confDir, "ADD", hostPort)
	secondIP := runPlugins(t, n, two, confDir, "ADD", 0)
	if !opts.PodCIDR.Contains(firstIP) || firstIP == secondIP {
		t.Fatalf("the pods have %v and %v", firstIP, secondIP)
	}

	if from := dialFrom(t, one.Enter, world); from != world.HostAddr.String() {
		t.Errorf("the outside sees a pod as %s, want %s", from, world.HostAddr)
	}
	if from := dialFrom(t, one.Enter, n); from != firstIP.String() {
		t.Errorf("the node sees a pod as %s, want %s", from, firstIP)
	}
	two.NodeAddr = secondIP
	if from := dialFrom(t, one.Enter, two); from != firstIP.String() {
		t.Errorf("a pod sees another as %s, want %s", from, firstIP)
	}
	if from := dialFrom(t, n.Enter, two); from == "" {
		t.Error("the node cannot reach a pod")
	}
	one.NodeAddr = firstIP
	if from := dialPort(t, two.Enter, one, ":80", netip.AddrPortFrom(n.NodeAddr, hostPort)); from != secondIP.String() {
		t.Errorf("by the host port a pod sees another as %s, want %s", from, secondIP)
	}
	if from := dialPort(t, world.Enter, one, ":80", netip.AddrPortFrom(n.NodeAddr, hostPort)); from == "" {
		t.Error("the outside cannot reach the host port")
	}
	runPlugins(t, n, one, confDir, "DEL", hostPort)
	runPlugins(t, n, two, confDir, "DEL", 0)
	if leases, err := filepath.Glob(filepath.Join(opts.DataDir, "orlop", "198.*")); err != nil || len(leases) != 0 {
		t.Errorf("addresses are still leased: %v, %v", leases, err)
	}
}

func addSandbox(t *testing.T, n *Network, name string) *Network {
	t.Helper()
	pod := newNetwork(n.Name+"-"+name, "", linkPrefix(0))
	ns, err := ensureNetns(pod.NetnsPath)
	must(t, err)
	must(t, ns.Close())
	t.Cleanup(func() { must(t, removeNetns(pod.NetnsPath)) })
	return pod
}

// runPlugins runs the list's plugins for a pod, each fed with the result of the one before, and returns the
// address that ADD gives the pod.
func runPlugins(t *testing.T, n, pod *Network, confDir, command string, hostPort int) netip.Addr {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(confDir, cniConfigFile))
	must(t, err)
	var list struct {
		CNIVersion, Name string
		Plugins          []map[string]any
	}
	must(t, json.Unmarshal(content, &list))
	bin, err := filepath.Abs(pluginDir)
	must(t, err)
	var previous json.RawMessage
	for _, conf := range list.Plugins {
		conf["cniVersion"], conf["name"] = list.CNIVersion, list.Name
		if previous != nil {
			conf["prevResult"] = previous
		}
		if hostPort != 0 && conf["type"] == "portmap" {
			conf["runtimeConfig"] = map[string]any{"portMappings": []map[string]any{
				{"hostPort": hostPort, "containerPort": 80, "protocol": "tcp"},
			}}
		}
		stdin, err := json.Marshal(conf)
		must(t, err)
		cmd := exec.Command(filepath.Join(bin, fmt.Sprint(conf["type"])))
		cmd.Env = append(os.Environ(), "CNI_COMMAND="+command, "CNI_CONTAINERID="+pod.Name, "CNI_NETNS="+pod.NetnsPath,
			"CNI_IFNAME=eth0", "CNI_PATH="+bin)
		var stdout bytes.Buffer
		cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &stdout, os.Stderr
		if err := n.Enter(cmd.Run); err != nil {
			t.Fatalf("%s %v: %v: %s", command, conf["type"], err, stdout.Bytes())
		}
		if command == "ADD" {
			previous = stdout.Bytes()
		}
	}
	if command != "ADD" {
		return netip.Addr{}
	}
	var result struct {
		IPs []struct{ Address netip.Prefix }
	}
	must(t, json.Unmarshal(previous, &result))
	return result.IPs[0].Address.Addr()
}
