package e2e

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// statefulSetStep: pods in order, each with its name and its volume for good.
func statefulSetStep(c *testCluster) {
	c.apply(`
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {clusterIP: None, selector: {app: db}, publishNotReadyAddresses: true, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  replicas: 2
  selector: {matchLabels: {app: db}}
  updateStrategy: {type: OnDelete}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: c
        image: ` + busyboxImage + `
        command: [sh, -c, "echo $HOSTNAME >> /data/starts; trap exit TERM; while :; do sleep 1; done"]
        volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 16Mi}}}
`)
	ready := func(n string) {
		c.t.Helper()
		c.eventuallyIs("statefulset/db", ".status.readyReplicas", n)
	}
	ready("2")
	started := func(pod string) string { return c.get("pod/"+pod, ".status.startTime") }
	if first, second := started("db-0"), started("db-1"); first > second {
		c.t.Errorf("db-0 started at %s and db-1 at %s", first, second)
	}
	c.eventuallySays([]string{c.get("pod/db-1", ".status.podIP")},
		"exec", "db-0", "--", "nslookup", "db-1.db."+c.ns+".svc.cluster.local")

	volume := c.get("pvc/data-db-1", ".spec.volumeName")
	c.kubectl("delete", "pod", "db-1")
	ready("2")
	c.eventuallySays([]string{"db-1\ndb-1\n"}, "exec", "db-1", "--", "cat", "/data/starts")
	c.kubectl("scale", "statefulset/db", "--replicas=1")
	c.eventuallyGone("pod/db-1")
	c.kubectl("scale", "statefulset/db", "--replicas=2")
	ready("2")
	c.eventuallySays([]string{"db-1\ndb-1\ndb-1\n"}, "exec", "db-1", "--", "cat", "/data/starts")
	if now := c.get("pvc/data-db-1", ".spec.volumeName"); now != volume {
		c.t.Errorf("db-1 had volume %s and now has %s", volume, now)
	}

	// With OnDelete a change waits for the pod to be deleted.
	before := c.get("pod/db-0", ".metadata.uid")
	c.kubectl("set", "env", "statefulset/db", "COLOUR=green")
	c.eventually("the change is noticed", func() error {
		if c.get("statefulset/db", ".status.updateRevision") == c.get("statefulset/db", ".status.currentRevision") {
			return errors.New("not yet")
		}
		return nil
	})
	if now := c.get("pod/db-0", ".metadata.uid"); now != before {
		c.t.Error("a change replaced a pod under OnDelete")
	}
	c.kubectl("delete", "pod", "db-0")
	ready("2")
	c.eventuallySays([]string{"green"}, "exec", "db-0", "--", "sh", "-c", "echo $COLOUR")
}

// servicesStep: all kinds of Services, by address, by name and by environment.
func servicesStep(c *testCluster) {
	c.apply(strings.ReplaceAll(web, "CLUSTER", "services"))
	c.kubectl("rollout", "status", "deployment/web", "--timeout="+patience.String())
	const hello = "hello from services\n"
	c.eventually("the NodePort answers the host", func() error {
		return httpGet("http://"+c.status().NodeIP+":30001/", hello)
	})
	c.kubectl("expose", "deployment/web", "--name=exposed", "--port=8080", "--target-port=80", "--session-affinity=ClientIP")
	c.apply(`
{apiVersion: v1, kind: Service, metadata: {name: headless}, spec: {clusterIP: None, selector: {app: web}, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: elsewhere}, spec: {type: ExternalName, externalName: exposed.` + c.ns + `.svc.cluster.local}}
---
apiVersion: v1
kind: Service
metadata: {name: ports}
spec: {selector: {app: web}, ports: [{name: one, port: 81, targetPort: 80}, {name: two, port: 82, targetPort: 80}]}
` + sleeper("client", "", ""))
	c.waitReady("client")
	for _, url := range []string{
		"http://exposed:8080/", "http://headless/", "http://elsewhere:8080/", "http://ports:81/",
		"http://ports." + c.ns + ":82/", "http://" + c.get("service/exposed", ".spec.clusterIP") + ":8080/",
	} {
		c.eventually(url+" answers a pod", func() error {
			got, err := c.try(c.inNamespace("exec", "client", "--", "wget", "-qO-", url)...)
			if err != nil || got != hello {
				return fmt.Errorf("%q, %w", got, err)
			}
			return nil
		})
	}
	pods := strings.Fields(c.kubectl("get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].status.podIP}"))
	slices.Sort(pods)
	endpoints := strings.Fields(c.kubectl("get", "endpointslices", "-l", "kubernetes.io/service-name=exposed",
		"-o", "jsonpath={.items[*].endpoints[*].addresses[0]}"))
	slices.Sort(endpoints)
	if !slices.Equal(pods, endpoints) {
		c.t.Errorf("the endpoints are %v, of pods %v", endpoints, pods)
	}
	c.eventuallySays(pods, "exec", "client", "--", "nslookup", "headless."+c.ns+".svc.cluster.local")
	// The Services that were there when the pod started.
	if got := c.exec("client", "echo $EXPOSED_SERVICE_HOST:$EXPOSED_SERVICE_PORT"); got !=
		c.get("service/exposed", ".spec.clusterIP")+":8080\n" {
		c.t.Errorf("the environment has the Service at %q", got)
	}
}
