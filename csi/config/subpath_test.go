package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A directory that a container has mounted with subPath keeps its files, though many larger generations come after.
func TestSubPathDirectoryKeepsItsFiles(t *testing.T) {
	w := newWorld(t)
	w.grant(w.ns, account1)
	value := func(n int) string { return strings.Repeat(fmt.Sprint(n), 900<<10) }
	w.set("ConfigMap", w.ns, "cm", value(0))
	var items []string
	for i := range 12 { // together they are more than is kept of superseded generations
		items = append(items, fmt.Sprintf("{key: k, path: d/%d}", i))
	}
	p := w.pod("p", account1, map[string]string{"kind": "ConfigMap", "name": "cm", "items": "[" + strings.Join(items, ", ") + "]"})
	must(t, p.publish())
	first, err := os.Readlink(filepath.Join(p.target, "..data"))
	must(t, err)
	// As the kubelet does: a bind mount of what the links lead to.
	mounted := filepath.Join(w.dir, "subpath")
	must(t, os.Mkdir(mounted, 0o755), unix.Mount(filepath.Join(p.target, first, "d"), mounted, "", unix.MS_BIND, ""))
	for n := 1; n < 4; n++ {
		w.set("ConfigMap", w.ns, "cm", value(n))
		p.shows("d/3", value(n))
	}
	if got, err := os.ReadFile(filepath.Join(mounted, "3")); err != nil || string(got) != value(0) {
		t.Errorf("the mounted directory's file has %d bytes, %v", len(got), err)
	}
	must(t, unix.Unmount(mounted, 0))
	w.set("ConfigMap", w.ns, "cm", value(5))
	p.shows("d/3", value(5))
	eventually(t, "the generation goes when it is not mounted any more", func() error {
		if _, err := os.Stat(filepath.Join(p.target, first)); !os.IsNotExist(err) {
			return fmt.Errorf("it is there: %w", err)
		}
		return nil
	})
	must(t, p.unpublish())
	p.gone()
}
