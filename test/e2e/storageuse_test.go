package e2e

import (
	"fmt"
	"strings"
)

// twoPodsStory: ReadWriteOnce is once a node, not once a pod.
func twoPodsStory(c *testCluster) {
	c.apply(claim("shared", "16Mi", "") + user("one", "shared") + user("two", "shared"))
	c.waitReady("one")
	c.waitReady("two")
	c.exec("one", "echo from one > /data/file")
	if got := c.exec("two", "cat /data/file"); got != "from one\n" {
		c.t.Errorf("the second pod reads %q", got)
	}
	c.kubectl("delete", "pod", "one")
	c.exec("two", "echo still > /data/file")
}

// mountsStory: the ways a pod can have its volume mounted.
func mountsStory(c *testCluster) {
	volume := "volumes: [{name: v, persistentVolumeClaim: {claimName: many}}]"
	c.apply(claim("many", "16Mi", "") +
		sleeper("writer", "volumeMounts: [{name: v, mountPath: /data}]",
			volume+"\n  securityContext: {runAsUser: 1000, runAsGroup: 1000, fsGroup: 2000, runAsNonRoot: true}"))
	c.waitReady("writer")
	c.exec("writer", "mkdir /data/sub && echo below > /data/sub/file && echo above > /data/file")
	if got := c.exec("writer", "stat -c '%u %g' /data/file"); got != "1000 2000\n" {
		c.t.Errorf("with fsGroup 2000 user 1000's file is of %q", got)
	}
	c.apply(sleeper("reader",
		"volumeMounts: [{name: v, mountPath: /data, readOnly: true}, {name: v, mountPath: /sub, subPath: sub}]",
		volume) +
		sleeper("claimant", "volumeMounts: [{name: v, mountPath: /data}]",
			"volumes: [{name: v, persistentVolumeClaim: {claimName: many, readOnly: true}}]"))
	c.waitReady("reader")
	c.waitReady("claimant")
	if got := c.exec("reader", "cat /data/file /sub/file; ls /sub; echo new > /sub/new"); got != "above\nbelow\nfile\n" {
		c.t.Errorf("the reader sees %q", got)
	}
	c.execFails("Read-only file system", "reader", "echo x > /data/other")
	c.execFails("Read-only file system", "claimant", "echo x > /data/other")
	if got := c.exec("claimant", "cat /data/sub/new"); got != "new\n" {
		c.t.Errorf("what was written through a subPath reads %q", got)
	}
}

// ephemeralStory: a generic ephemeral volume comes and goes with its pod.
func ephemeralStory(c *testCluster) {
	c.apply(sleeper("brief", "volumeMounts: [{name: scratch, mountPath: /data}]", `
  volumes:
  - name: scratch
    ephemeral:
      volumeClaimTemplate:
        spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 16Mi}}}`))
	c.waitReady("brief")
	c.exec("brief", "echo scratch > /data/file")
	volume := c.get("pvc/brief-scratch", ".spec.volumeName")
	c.kubectl("delete", "pod", "brief")
	c.eventuallyGone("pvc/brief-scratch")
	c.eventuallyNoVolume(volume)
}

// inUseStory: a claim that is deleted while a pod uses it goes when the pod goes, and not before.
func inUseStory(c *testCluster) {
	c.apply(volumePod("busy", "16Mi", ""))
	c.waitReady("busy")
	volume := c.get("pvc/busy", ".spec.volumeName")
	c.kubectl("delete", "pvc", "busy", "--wait=false")
	if got := c.get("pvc/busy", ".metadata.finalizers"); !strings.Contains(got, "kubernetes.io/pvc-protection") {
		c.t.Errorf("a claim in use has finalizers %s after its deletion", got)
	}
	c.exec("busy", "echo still > /data/file && cat /data/file")
	c.kubectl("delete", "pod", "busy")
	c.eventuallyGone("pvc/busy")
	c.eventuallyNoVolume(volume)
}

// oncePodStory: ReadWriteOncePod is for one pod at a time.
func oncePodStory(c *testCluster) {
	c.apply(strings.Replace(claim("single", "16Mi", ""), "ReadWriteOnce", "ReadWriteOncePod", 1) +
		user("holder", "single"))
	c.waitReady("holder")
	c.apply(user("waiter", "single"))
	c.eventuallySays([]string{"ReadWriteOncePod"}, "describe", "pod/waiter")
	if phase := c.get("pod/waiter", ".status.phase"); phase != "Pending" {
		c.t.Errorf("the second pod is %s", phase)
	}
	c.kubectl("delete", "pod", "holder")
	c.waitReady("waiter")
}

// twentyStory: twenty pods with a claim each come up, and go again.
func twentyStory(c *testCluster) {
	const count = 20
	var all []string
	for i := range count {
		all = append(all, volumePod(fmt.Sprintf("p%d", i), "8Mi", ""))
	}
	c.apply(strings.Join(all, "\n---"))
	c.kubectl("wait", "--for=condition=Ready", "pod", "--all", "--timeout="+patience.String())
	volumes := strings.Fields(c.get("pvc", ".items[*].spec.volumeName"))
	if len(volumes) != count {
		c.t.Errorf("%d pods have the volumes %v", count, volumes)
	}
	c.kubectl("delete", "pod,pvc", "--all")
	for _, v := range volumes {
		c.eventuallyNoVolume(v)
	}
}
