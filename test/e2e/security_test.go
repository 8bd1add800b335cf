package e2e

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestSecurity looks at a cluster as somebody who has no business with it.
func TestSecurity(t *testing.T) {
	c := start(t)
	c.importImage("busybox")
	for _, x := range []struct {
		name string
		look func(*testCluster)
	}{
		{"Listeners", listenersRefuse}, {"Files", filesArePrivate}, {"Node", nodeIsRestricted},
		{"Storage", storageIsRestricted}, {"Logs", logsKeepSecrets},
	} {
		t.Run(x.name, func(t *testing.T) { x.look(&testCluster{t: t, dir: c.dir}) })
	}
}

// A door is a TCP listener of the node.
type door struct {
	who string
	// open tells that it has nothing to authenticate with: then it must be on loopback.
	open bool
	// anywhere tells that pods may reach it.
	anywhere bool
}

// doors are all the listeners there may be, by port.
var doors = map[uint16]door{
	6443:  {who: "kube-apiserver", anywhere: true},
	10250: {who: "kubelet", anywhere: true},
	10053: {who: "DNS", open: true, anywhere: true},
	2379:  {who: "etcd, for clients"},
	2380:  {who: "etcd, for peers"},
	10257: {who: "kube-controller-manager"},
	10259: {who: "kube-scheduler"},
	10249: {who: "kube-proxy's metrics", open: true},
	10256: {who: "kube-proxy's health", open: true},
	10054: {who: "DNS's readiness", open: true},
}

func listenersRefuse(c *testCluster) {
	s := c.status()
	found := listening(c, s.Components[0].PID)
	for port, door := range doors {
		if _, there := found[port]; !there {
			c.t.Errorf("nothing listens on port %d (%s): is the list of listeners stale?", port, door.who)
		}
	}
	// One more is containerd's, for exec, attach and port-forward, on a port the kernel chose. What it serves is at
	// addresses that hold a random token, made when the kubelet asks for them and good for one use.
	streams := 0
	for _, port := range slices.Sorted(maps.Keys(found)) {
		addr := found[port]
		door, known := doors[port]
		if !known {
			streams++
			if status, err := getAnonymously(s.Netns, "http://"+addr.String()+"/exec/guess"); err != nil ||
				status != http.StatusNotFound || !addr.Addr().IsLoopback() || streams > 1 {
				c.t.Errorf("an unknown listener is on %s, and answers with status %d, %v", addr, status, err)
			}
			continue
		}
		if !door.anywhere && !addr.Addr().IsLoopback() {
			c.t.Errorf("%s listens on %s, want loopback alone", door.who, addr)
		}
		if door.open {
			continue
		}
		if addr.Addr().IsUnspecified() {
			addr = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)
		}
		for _, path := range []string{"/", "/metrics", "/api/v1/secrets", "/pods", "/v3/kv/range"} {
			if status, err := getAnonymously(s.Netns, "https://"+addr.String()+path); err == nil &&
				!slices.Contains([]int{http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound}, status) {
				c.t.Errorf("%s at %s answers a stranger who asks for %s with status %d", door.who, addr, path, status)
			}
		}
		if status, err := getAnonymously(s.Netns, "http://"+addr.String()+"/"); err == nil && status != http.StatusBadRequest {
			c.t.Errorf("%s at %s answers without TLS, with status %d", door.who, addr, status)
		}
	}
}

// listening lists the addresses that are listened on, by port, in the network namespace of a process.
func listening(c *testCluster, pid int) map[uint16]netip.AddrPort {
	c.t.Helper()
	found := map[uint16]netip.AddrPort{}
	for _, table := range []string{"tcp", "tcp6"} {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, table))
		if err != nil {
			c.t.Fatal(err)
		}
		for line := range strings.Lines(string(data)) {
			f := strings.Fields(line)
			const listen = "0A"
			if len(f) < 4 || f[3] != listen {
				continue
			}
			hexAddr, hexPort, _ := strings.Cut(f[1], ":")
			raw, err := hex.DecodeString(hexAddr)
			port, perr := strconv.ParseUint(hexPort, 16, 16)
			if err = errors.Join(err, perr); err != nil {
				c.t.Fatalf("%s: %v", f[1], err)
			}
			// The kernel prints each word of the address as a number.
			for i := 0; i < len(raw); i += 4 {
				binary.NativeEndian.PutUint32(raw[i:], binary.BigEndian.Uint32(raw[i:]))
			}
			addr, _ := netip.AddrFromSlice(raw)
			found[uint16(port)] = netip.AddrPortFrom(addr.Unmap(), uint16(port))
		}
	}
	return found
}

// getAnonymously asks without a certificate or token, from within a network namespace.
func getAnonymously(netns, url string) (status int, err error) {
	transport := &http.Transport{
		DialContext: dialer(netns),
		// Who answers does not matter, but whether.
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // see above
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: 10 * time.Second}
	resp, err := client.Get(url)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}

// filesArePrivate: nobody but their owner gets at keys, credentials, the database, the volumes or a socket.
func filesArePrivate(c *testCluster) {
	for _, dir := range []string{"pki", "etcd", "pools/local", "logs"} {
		if info, err := os.Stat(filepath.Join(c.dir, dir)); err != nil || info.Mode().Perm() != 0o700 {
			c.t.Errorf("%s: %v, %v, want mode 0700", dir, info.Mode(), err)
		}
	}
	keys, sockets := 0, 0
	err := filepath.WalkDir(c.dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // something that is always on the move
		}
		if err != nil {
			return err
		}
		// Images have files of theirs; what pods see is theirs to protect.
		if d.IsDir() && (d.Name() == "snapshots" || d.Name() == "pods" || d.Name() == "rootfs") {
			return fs.SkipDir
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		name := d.Name()
		switch secret := strings.HasSuffix(name, ".key") || strings.HasSuffix(name, "kubeconfig"); {
		case secret && info.Mode().IsRegular():
			keys++
			if info.Mode().Perm() != 0o600 {
				c.t.Errorf("%s has mode %v, want 0600", path, info.Mode())
			}
		case info.Mode().Type() == fs.ModeSocket:
			sockets++
			if !private(c, path) {
				c.t.Errorf("others can connect to the socket %s, mode %v", path, info.Mode())
			}
		}
		return nil
	})
	if err != nil {
		c.t.Error(err)
	}
	if keys < 10 || sockets < 3 {
		c.t.Errorf("there are %d keys and %d sockets: is that all?", keys, sockets)
	}
}

// private tells whether others than the owner are kept from a file by its mode or by that of a directory above it, up to
// the data directory.
func private(c *testCluster, path string) bool {
	info, err := os.Lstat(path)
	if err != nil {
		return errors.Is(err, fs.ErrNotExist)
	}
	if info.Mode().Perm()&0o022 == 0 && info.Mode().Type() == fs.ModeSocket {
		return true // to connect is to write
	}
	for dir := filepath.Dir(path); len(dir) >= len(c.dir); dir = filepath.Dir(dir) {
		if info, err := os.Stat(dir); err == nil && info.Mode().Perm()&0o011 == 0 {
			return true
		}
	}
	return false
}

// as runs kubectl with a component's credentials.
func (c *testCluster) as(component string, args ...string) []string {
	return append([]string{"kubectl", "--kubeconfig=" + filepath.Join(c.dir, "pki", component+".kubeconfig")}, args...)
}

// nodeIsRestricted: a kubelet's credentials are good for its node and what its pods use, and no more.
func nodeIsRestricted(c *testCluster) {
	c.apply("{apiVersion: v1, kind: Node, metadata: {name: other}}")
	defer c.kubectl("delete", "node", "other")
	c.kubectl("create", "secret", "generic", "foreign", "--from-literal=key=value")
	own := c.status().Node

	who := c.orlop(c.as("kubelet", "auth", "whoami")...)
	if !strings.Contains(who, "system:node:"+own) {
		c.t.Errorf("the kubelet's credentials are those of\n%s", who)
	}
	c.orlop(c.as("kubelet", "get", "node", own)...)
	c.refused([]string{"forbidden"}, c.as("kubelet", "label", "node", "other", "mine=yes")...)
	c.refused([]string{"forbidden"}, c.as("kubelet", "label", "node", own, "node-restriction.kubernetes.io/trusted=yes")...)
	c.refused([]string{"forbidden"}, c.as("kubelet", "delete", "node", "other")...)
	c.refused([]string{"forbidden"}, c.as("kubelet", "get", "secret", "foreign")...)
	c.refused([]string{"forbidden"}, c.as("kubelet", "get", "secrets", "--all-namespaces")...)
}

// storageIsRestricted: the storage's own identities do storage, and of Secrets the controllers of rollouts alone read any.
func storageIsRestricted(c *testCluster) {
	c.kubectl("create", "secret", "generic", "password", "--from-literal=key=value")
	c.orlop(c.as("storage-controllers", "get", "secret", "password")...)
	for _, args := range [][]string{
		{"get", "secret", "password"}, {"get", "secrets", "--all-namespaces"}, {"get", "configmaps", "--all-namespaces"},
	} {
		c.refused([]string{"forbidden"}, c.as("storage-node", args...)...)
	}
	for _, component := range []string{"storage-node", "storage-controllers"} {
		c.orlop(c.as(component, "get", "--raw=/apis/storage.k8s.io/v1/storageclasses")...)
		for _, args := range [][]string{
			{"create", "secret", "generic", "mine"}, {"delete", "secret", "password"}, {"label", "secret", "password", "a=b"},
			{"delete", "pod", "any"}, {"scale", "deployment", "any", "--replicas=0"}, {"create", "serviceaccount", "mine"},
			{"create", "clusterrolebinding", "mine", "--clusterrole=cluster-admin", "--user=mine"},
		} {
			c.refused([]string{"forbidden"}, c.as(component, args...)...)
		}
	}
}

// logsKeepSecrets: what is in a Secret is in no log and on no command line, whatever is done with it.
func logsKeepSecrets(c *testCluster) {
	var random [12]byte
	if _, err := rand.Read(random[:]); err != nil {
		c.t.Fatal(err)
	}
	marker := hex.EncodeToString(random[:])
	c.apply(fmt.Sprintf("{apiVersion: v1, kind: Secret, metadata: {name: marked}, stringData: {key: %s}}", marker))
	c.apply(claim("marked", "16Mi", "") + sleeper("marked",
		"volumeMounts: [{name: s, mountPath: /secret}, {name: v, mountPath: /data}]\n"+
			"    env: [{name: KEY, valueFrom: {secretKeyRef: {name: marked, key: key}}}]",
		"volumes: [{name: s, secret: {secretName: marked}}, {name: v, persistentVolumeClaim: {claimName: marked}}]"))
	c.waitReady("marked")
	if got := c.exec("marked", "cat /secret/key; echo; echo $KEY"); got != marker+"\n"+marker+"\n" {
		c.t.Fatalf("the pod sees %q", got)
	}
	c.kubectl("delete", "pod/marked", "pvc/marked")
	c.kubectl("delete", "secret", "marked")

	logs, err := filepath.Glob(filepath.Join(c.dir, "logs", "*"))
	if err != nil || len(logs) < 10 {
		c.t.Fatalf("logs: %v, %v", logs, err)
	}
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		c.t.Fatal(err)
	}
	encoded := []byte(base64.StdEncoding.EncodeToString([]byte(marker)))
	for _, path := range append(logs, lines...) {
		data, err := os.ReadFile(path)
		if err != nil && !strings.HasPrefix(path, "/proc/") {
			c.t.Error(err)
		}
		if bytes.Contains(data, []byte(marker)) || bytes.Contains(data, encoded) {
			c.t.Errorf("the Secret is in %s", path)
		}
	}
}
