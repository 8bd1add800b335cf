package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// TestMySQL is the demo with assertions: MySQL on a StatefulSet, its rows written by the Service's name, survives a deleted
// pod, a filled volume and a restart of the whole cluster.
func TestMySQL(t *testing.T) {
	c := start(t)
	c.importImage("mariadb")
	c.kubectl("apply", "-k", filepath.Join(root(), "deploy/examples/mysql"))
	c.kubectl("rollout", "status", "statefulset/mysql", "--timeout="+patience.String())

	sql := func(pod, host, statement string) (string, error) {
		return c.try("kubectl", "exec", pod, "--", "sh", "-c",
			`MYSQL_PWD=$MYSQL_ROOT_PASSWORD exec mysql -u root -h "$0" --connect-timeout=2 -N -B -e "$1"`, host, statement)
	}
	rows := func(when string, want ...string) {
		t.Helper()
		c.eventually("the rows are there "+when, func() error {
			out, err := sql("mysql-1", "mysql-0.mysql", "SELECT item FROM shop.orders ORDER BY id")
			if err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			if got := strings.Fields(out); strings.Join(got, " ") != strings.Join(want, " ") {
				return fmt.Errorf("rows %q, want %q", got, want)
			}
			return nil
		})
	}
	c.eventually("mysql-0 answers by its name", func() error {
		out, err := sql("mysql-1", "mysql-0.mysql", "SELECT 1")
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	if out, err := sql("mysql-1", "mysql-0.mysql", `CREATE DATABASE shop; CREATE TABLE shop.orders (id INT PRIMARY KEY, item TEXT);
		INSERT INTO shop.orders VALUES (1, 'rope'), (2, 'sailcloth'), (3, 'tar')`); err != nil {
		t.Fatalf("writing rows: %v\n%s", err, out)
	}
	// The two are servers of their own, with a volume of its own each.
	if out, err := sql("mysql-0", "mysql-1.mysql", "SHOW DATABASES LIKE 'shop'"); err != nil || out != "" {
		t.Errorf("mysql-1 has the database of mysql-0: %q, %v", out, err)
	}
	if out, err := c.try("kubectl", "exec", "mysql-1", "--", "mysql", "-u", "root", "-h", "mysql-0.mysql", "-pwrong", "-e", "SELECT 1"); err == nil {
		t.Errorf("a wrong password is taken: %s", out)
	}

	uid := c.get("pod/mysql-0", ".metadata.uid")
	volume := c.get("pvc/data-mysql-0", ".spec.volumeName")
	c.kubectl("delete", "pod", "mysql-0")
	c.eventually("mysql-0 is a new pod", func() error {
		if now, err := c.try("kubectl", "get", "pod/mysql-0", "-o", "jsonpath={.metadata.uid}"); err != nil || now == uid {
			return fmt.Errorf("uid %q, %w", now, err)
		}
		return nil
	})
	rows("after the pod was deleted", "rope", "sailcloth", "tar")

	out, err := c.try("kubectl", "exec", "mysql-1", "--", "dd", "if=/dev/zero", "of=/var/lib/mysql/too-big", "bs=1M", "count=600")
	if err == nil || !strings.Contains(out, "No space left on device") {
		t.Errorf("600 MiB into a volume of 512Mi: %v\n%s", err, out)
	}
	c.kubectl("exec", "mysql-1", "--", "rm", "/var/lib/mysql/too-big")

	c.orlop("down")
	c.orlop("up")
	rows("after the cluster was restarted", "rope", "sailcloth", "tar")
	for i := range 2 {
		claim := fmt.Sprintf("pvc/data-mysql-%d", i)
		if phase := c.get(claim, ".status.phase"); phase != "Bound" {
			t.Errorf("%s is %s", claim, phase)
		}
	}
	if now := c.get("pvc/data-mysql-0", ".spec.volumeName"); now != volume {
		t.Errorf("data-mysql-0 has the volume %s, and had %s", now, volume)
	}

	// Scaled down, the claims stay, as the API says; deleted, their volumes go.
	c.kubectl("delete", "-k", filepath.Join(root(), "deploy/examples/mysql"), "--wait")
	c.eventuallySays([]string{"data-mysql-0", "data-mysql-1"}, "get", "pvc")
	c.kubectl("delete", "pvc", "--all")
	c.eventually("the volumes are gone", func() error {
		if out := c.kubectl("get", "pv", "-o", "name"); out != "" && !strings.Contains(out, "No resources") {
			return fmt.Errorf("%s", out)
		}
		return nil
	})
}
