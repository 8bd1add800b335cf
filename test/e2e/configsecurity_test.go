package e2e

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/orlop-io/orlop/cluster"
)

// secretMarker is a text that is nowhere else, with the forms in which it could be written.
type secretMarker struct {
	text  string
	forms map[string][]byte
}

func newSecretMarker(t *testing.T) secretMarker {
	t.Helper()
	var random [12]byte
	if _, err := rand.Read(random[:]); err != nil {
		t.Fatal(err)
	}
	m := secretMarker{text: hex.EncodeToString(random[:])}
	raw := []byte(m.text) // of 24 bytes, so that base64 of whatever follows begins with base64 of it
	m.forms = map[string][]byte{
		"as it is": raw, "in base64": []byte(base64.StdEncoding.EncodeToString(raw)),
		"in hexadecimal": []byte(hex.EncodeToString(raw)), "as a list of bytes": []byte(strings.Trim(fmt.Sprintf("%d", raw), "[]")),
	}
	return m
}

// in returns the form in which the marker is in some text, "" where it is not.
func (m secretMarker) in(text []byte) string {
	for form, bytesOf := range m.forms {
		if bytes.Contains(text, bytesOf) {
			return form
		}
	}
	return ""
}

// TestConfigSecurity: what is in a Secret is in etcd, in memory and in the pod, and nowhere else: whatever is done with it,
// and whatever fails. The runtime keeps the environment of containers on disk, which is why a second Secret that is an
// environment variable may be there, and there alone.
func TestConfigSecurity(t *testing.T) {
	c := start(t)
	c.importImage("busybox")
	volume, env := newSecretMarker(t), newSecretMarker(t)
	c.apply(fmt.Sprintf("{apiVersion: v1, kind: Secret, metadata: {name: env}, stringData: {key: %s}}", env.text))
	secrets := c.client().CoreV1().Secrets("default")
	set := func(n int, keys ...string) {
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "volume"}, Data: map[string][]byte{}}
		for _, key := range keys {
			secret.Data[key] = fmt.Appendf(nil, "%s-%d", volume.text, n)
		}
		_, err := secrets.Update(t.Context(), secret, metav1.UpdateOptions{})
		if apierrors.IsNotFound(err) {
			_, err = secrets.Create(t.Context(), secret, metav1.CreateOptions{})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	set(0, "key", "other")
	c.apply(sleeper("user", "volumeMounts: [{name: s, mountPath: /s}, {name: p, mountPath: /p}, {name: s, mountPath: /sub, subPath: key}]\n"+
		"    env: [{name: KEY, valueFrom: {secretKeyRef: {name: env, key: key}}}]\n"+
		"    envFrom: [{secretRef: {name: env}}]",
		"volumes: [{name: s, secret: {secretName: volume, items: [{key: key, path: deep/key, mode: 0400}]}}, "+
			"{name: p, projected: {sources: [{secret: {name: volume}}]}}]"))
	// One that cannot start, as an item names a key that there is not.
	c.apply(sleeper("refused", "volumeMounts: [{name: s, mountPath: /s}]",
		"volumes: [{name: s, secret: {secretName: volume, items: [{key: nonesuch, path: k}]}}]"))
	c.waitReady("user")
	c.eventuallySays([]string{"the object has no such key"}, "describe", "pod/refused")
	for n := 1; n <= 4; n++ {
		set(n, "key", "other")
		c.fileIs("user", "/s/deep/key", fmt.Sprintf("%s-%d", volume.text, n))
	}
	// One that fails while it runs, by a key that goes away, and across a restart of the kubelet.
	c.kubectl("patch", "secret", "volume", "--type=json", "-p", `[{"op":"remove","path":"/data/key"}]`)
	c.eventuallySays([]string{"keeps its last good files"}, "get", "events")
	kill(t, c.pidOf("kubelet"))
	c.pidOf("kubelet")
	c.fileIs("user", "/s/deep/key", volume.text+"-4")
	c.kubectl("delete", "secret", "volume")
	set(5, "key", "nonesuch", "other")
	c.fileIs("user", "/s/deep/key", volume.text+"-5")
	c.fileIs("user", "/p/other", volume.text+"-5")
	c.waitReady("refused")
	if got := c.exec("user", "echo -n $KEY $key"); got != env.text+" "+env.text {
		t.Errorf("the pod's variables are %q", got)
	}

	secretInNoOutput(c, volume, env)
	secretInNoArguments(c, volume, env)
	secretInNoFile(c, volume, env)
}

// secretInNoOutput: no log, no event, no manifest but the Secret's own, and nothing that orlop prints.
func secretInNoOutput(c *testCluster, markers ...secretMarker) {
	commands := [][]string{
		{"status"}, {"status", "-o", "json"}, {"config", "status", "-A"}, {"config", "status", "-A", "-o", "wide"},
		{"config", "status", "-A", "-o", "json"}, {"kubectl", "get", "events", "-A", "-o", "json"},
		{"kubectl", "get", "pods,nodes,configmaps,csidrivers", "-A", "-o", "json"}, {"kubectl", "describe", "pods", "-A"},
		{"logs", "supervisor"},
	}
	for _, component := range c.status().Components {
		commands = append(commands, []string{"logs", component.Name})
	}
	for _, args := range commands {
		out := c.orlop(args...)
		if len(out) == 0 && args[0] != "logs" {
			c.t.Errorf("orlop %s says nothing", strings.Join(args, " "))
		}
		for _, m := range markers {
			if form := m.in([]byte(out)); form != "" {
				c.t.Errorf("the Secret is in what orlop %s prints, %s", strings.Join(args, " "), form)
			}
		}
	}
}

// secretInNoArguments: no process of the machine was started with it.
func secretInNoArguments(c *testCluster, markers ...secretMarker) {
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil || len(lines) < 10 {
		c.t.Fatalf("processes: %d, %v", len(lines), err)
	}
	for _, path := range lines {
		raw, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ESRCH) {
			c.t.Error(err)
		}
		for _, m := range markers {
			if form := m.in(raw); form != "" {
				c.t.Errorf("the Secret is in the arguments %s, %s: %q", path, form, raw)
			}
		}
	}
}

// secretInNoFile searches all that the cluster has on disk, and what describes its running containers.
func secretInNoFile(c *testCluster, volume, env secretMarker) {
	state, err := cluster.ReadState(c.dir)
	if err != nil {
		c.t.Fatal(err)
	}
	runtime := filepath.Join("/run/orlop", state.ID)
	searched := 0
	var ofRuntime []string
	for _, root := range []string{c.dir, runtime} {
		err := filesOnDisk(root, filepath.Join(c.dir, "etcd"), func(path string, content []byte) {
			searched++
			if form := volume.in(content); form != "" {
				c.t.Errorf("the Secret of a volume is in %s, %s", path, form)
			}
			if form := env.in(content); form != "" {
				if strings.HasPrefix(path, runtime) || strings.Contains(path, "/containerd/") {
					ofRuntime = append(ofRuntime, path)
				} else {
					c.t.Errorf("the Secret of a variable is in %s, %s", path, form)
				}
			}
		})
		if err != nil {
			c.t.Errorf("searching %s: %v", root, err)
		}
	}
	c.t.Logf("%d files were searched; the variable is in these of the container runtime: %q", searched, ofRuntime)
	// This shows, too, that the search finds what is there.
	if searched < 100 || len(ofRuntime) == 0 {
		c.t.Errorf("%d files were searched, and the variable found in %d of them: is that all?", searched, len(ofRuntime))
	}
	volumes, err := filepath.Glob(filepath.Join(c.dir, "nodes/*/kubelet/pods/*/volumes/kubernetes.io~*/[sp]"))
	if err != nil || len(volumes) != 3 {
		c.t.Fatalf("the Secret's volumes: %v, %v", volumes, err)
	}
	for _, dir := range volumes {
		if on, err := fileSystem(dir); err != nil || on != tmpfsMagic {
			c.t.Errorf("the Secret's volume %s is not on a tmpfs: %v", dir, err)
		}
	}
}

// nsfsMagic is the type of the file system of namespaces.
const nsfsMagic = 0x6e736673

// fileSystem returns the type of the file system that a path is on.
func fileSystem(path string) (int64, error) {
	var on syscall.Statfs_t
	err := syscall.Statfs(path, &on)
	return on.Type, err
}

// filesOnDisk calls visit with every regular file below root, but for those below other and those on a tmpfs that is
// mounted below root. What goes away meanwhile is left out: the cluster is at work.
func filesOnDisk(root, other string, visit func(path string, content []byte)) error {
	return filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if e.IsDir() {
			if path == other {
				return filepath.SkipDir
			}
			if on, err := fileSystem(path); path != root && err == nil && on == tmpfsMagic && isMountPoint(path) {
				return filepath.SkipDir
			}
			return nil
		}
		// A network namespace that is bound to a name looks like a file.
		if in, err := fileSystem(path); !e.Type().IsRegular() || err == nil && in == nsfsMagic {
			return nil
		}
		content, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil {
			visit(path, content)
		}
		return err
	})
}

func isMountPoint(path string) bool {
	var here, above syscall.Stat_t
	return syscall.Stat(path, &here) == nil && syscall.Stat(filepath.Dir(path), &above) == nil && here.Dev != above.Dev
}
