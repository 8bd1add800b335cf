package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// story runs a subtest beside others, in a Kubernetes namespace of its own that is deleted at its end.
func (c *testCluster) story(name string, tell func(*testCluster)) {
	c.t.Run(name, func(t *testing.T) {
		t.Parallel()
		s := &testCluster{t: t, dir: c.dir, in: c.in, ns: strings.ToLower(name)}
		s.orlop("kubectl", "create", "namespace", s.ns)
		s.eventuallySays([]string{"default"}, "get", "serviceaccounts")
		defer s.orlop("kubectl", "delete", "namespace", s.ns, "--wait=false")
		tell(s)
	})
}

// stories runs subtests that are stories, and returns when the last of them has ended.
func (c *testCluster) stories(name string, tell func(*testCluster)) {
	c.t.Run(name, func(t *testing.T) {
		s := *c
		s.t = t
		tell(&s)
	})
}

// read gets an object in whole.
func read[T any](c *testCluster, object string) *T {
	c.t.Helper()
	var o T
	if err := json.Unmarshal([]byte(c.kubectl("get", object, "-o", "json")), &o); err != nil {
		c.t.Fatalf("%s: %v", object, err)
	}
	return &o
}

// exec runs a script in a pod's first container; it must succeed.
func (c *testCluster) exec(pod, script string) string {
	c.t.Helper()
	return c.kubectl("exec", pod, "--", "sh", "-c", script)
}

// execFails runs a script that must fail and say the word.
func (c *testCluster) execFails(word, pod, script string) {
	c.t.Helper()
	c.refused([]string{word}, c.inNamespace("exec", pod, "--", "sh", "-c", script)...)
}

// eventuallyIs polls until a field has a value.
func (c *testCluster) eventuallyIs(object, path, want string) {
	c.t.Helper()
	c.eventually(fmt.Sprintf("%s of %s is %q", path, object, want), func() error {
		got, err := c.try(c.inNamespace("get", object, "-o", "jsonpath={"+path+"}")...)
		if err != nil || got != want {
			return fmt.Errorf("it is %q, %w", got, err)
		}
		return nil
	})
}

// eventuallyGone polls until an object is not found.
func (c *testCluster) eventuallyGone(object string) {
	c.t.Helper()
	c.eventually(object+" is gone", func() error {
		out, err := c.try(c.inNamespace("get", object)...)
		if err == nil || !strings.Contains(out, "NotFound") {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
}

// pool lists what is in the storage pool: the directories of volumes by volume name, and the trash.
func (c *testCluster) pool() map[string]string {
	c.t.Helper()
	volumes := map[string]string{}
	for _, kind := range []string{"volumes", "trash"} {
		dirs, err := os.ReadDir(filepath.Join(c.dir, "pools", "local", kind))
		if err != nil {
			c.t.Fatal(err)
		}
		for _, d := range dirs {
			dir := filepath.Join(c.dir, "pools", "local", kind, d.Name())
			data, err := os.ReadFile(filepath.Join(dir, "record.json"))
			if errors.Is(err, fs.ErrNotExist) {
				volumes[kind+"/"+d.Name()] = dir
				continue
			}
			var record struct{ Name string }
			if err = errors.Join(err, json.Unmarshal(data, &record)); err != nil {
				c.t.Fatal(err)
			}
			volumes[record.Name] = dir
		}
	}
	return volumes
}

// loops lists the files beneath a directory that are behind a loop device.
func (c *testCluster) loops(dir string) []string {
	c.t.Helper()
	files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		c.t.Fatal(err)
	}
	var backing []string
	for _, f := range files {
		// A device that is let go of at this moment has none.
		if data, err := os.ReadFile(f); err == nil && strings.HasPrefix(string(data), dir+"/") {
			backing = append(backing, strings.TrimSpace(string(data)))
		}
	}
	return backing
}

// eventuallyNoVolume polls until nothing is left of a provisioned volume: no object, no data, no device.
func (c *testCluster) eventuallyNoVolume(name string) {
	c.t.Helper()
	c.eventuallyGone("pv/" + name)
	c.eventually("volume "+name+" has left the pool", func() error {
		dir, there := c.pool()[name]
		if there {
			return fmt.Errorf("it is in %s, loop devices %v", dir, c.loops(dir))
		}
		return nil
	})
}

// eventuallyEmpty polls until no volume is left at all.
func (c *testCluster) eventuallyEmpty() {
	c.t.Helper()
	c.eventually("all volumes are gone", func() error {
		out, err := c.try("kubectl", "get", "pv", "-o", "name")
		if left, loops := c.pool(), c.loops(c.dir); err != nil || out != "" || len(left) > 0 || len(loops) > 0 {
			return fmt.Errorf("%w, objects %q, pool %v, loop devices %v", err, out, left, loops)
		}
		return nil
	})
}

// sleeper is a pod that does nothing; container and spec are YAML, in flow style, of further fields of both.
func sleeper(name, container, spec string) string {
	return fmt.Sprintf(`
---
apiVersion: v1
kind: Pod
metadata: {name: %s, labels: {app: %[1]s}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: %s
    command: [sh, -c, "trap exit TERM; while :; do sleep 1; done"]
    %s
  %s
`, name, busyboxImage, container, spec)
}

// claim is a claim for one node; spec is YAML, in flow style, of further fields.
func claim(name, size, spec string) string {
	return fmt.Sprintf(`
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: %s}
spec:
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: %s}}
  %s
`, name, size, spec)
}

// class is a StorageClass of the local driver; fields is YAML of fields besides.
func class(name, fields string) string {
	return fmt.Sprintf(`
---
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: %s}
provisioner: local.csi.orlop.io
%s
`, name, fields)
}

// mounting are a pod's fields that mount a claim at /data.
func mounting(claim string) (container, spec string) {
	return "volumeMounts: [{name: v, mountPath: /data}]",
		"volumes: [{name: v, persistentVolumeClaim: {claimName: " + claim + "}}]"
}

// user is a pod that mounts a claim at /data.
func user(pod, claim string) string {
	container, spec := mounting(claim)
	return sleeper(pod, container, spec)
}
