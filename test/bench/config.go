package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// upstreamPatience is more than two of upstream's periods of 60 to 90 s.
const upstreamPatience = 4 * time.Minute

const (
	benchImage     = "orlop.io/test/busybox:1"
	benchImageFile = "bin/images/busybox.tar"
)

// configCase is a node with so many volumes, each of a ConfigMap of its own with one key of so many bytes, or of its
// pod's label. Edits is how many are made with Orlop's volumes, one after the other.
type configCase struct {
	Name    string `json:"name"`
	volumes int
	size    int
	label   bool
	edits   int
}

var configCases = []configCase{
	{Name: "1 volume of 1 KB", volumes: 1, size: 1_000, edits: 200},
	{Name: "1 volume of 100 KB", volumes: 1, size: 100_000, edits: 200},
	{Name: "1 volume of 1 MB", volumes: 1, size: 1_000_000, edits: 100},
	{Name: "100 volumes of 1 KB", volumes: 100, size: 1_000, edits: 1000},
	{Name: "500 volumes of 1 KB", volumes: 500, size: 1_000, edits: 1000},
	{Name: "a pod's label", volumes: 1, size: 63, label: true, edits: 100},
}

// labelEdits is how many edits of a label are made with upstream's volumes: it follows labels within a second.
const labelEdits = 20

// configResult is what one kind of cluster did in one case.
type configResult struct {
	configCase
	Cluster string    `json:"cluster"`
	Seconds []float64 `json:"seconds"`         // from the PATCH being sent to the new file being visible
	Patch   []float64 `json:"patch,omitempty"` // of them, until the API server had answered the PATCH; Orlop's alone
	Watches int       `json:"watches"`         // opened on the API server because of the pods and their volumes
	CPU     float64   `json:"idleKubeletCPU"`  // of the kubelet while nothing changed, in parts of one core
}

// configBench measures how long an edit takes to be visible in a volume of a running pod, in a cluster with Orlop's
// volumes and in one with upstream's, in the cases whose name contains a text.
func configBench(ctx context.Context, cases string) ([]configResult, error) {
	image := exec.CommandContext(ctx, "go", "run", "./test/image", "-kind", "busybox", "-o", benchImageFile)
	if out, err := image.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("building the image busybox: %w\n%s", err, out)
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "edit to visible, ms\torlop edits\tp50\tp99\tmax\tplain edits\tp50\tp99\tmax\tratio of p50\twatches\tplain\tidle kubelet CPU, %\tplain\t")
	var all []configResult
	for _, x := range configCases {
		if !strings.Contains(x.Name, cases) {
			continue
		}
		var pair []configResult
		for _, k := range []kind{{name: "orlop"}, {name: "plain", flags: []string{"--plain"}}} {
			r, err := configRun(ctx, k, x)
			if err != nil {
				return nil, fmt.Errorf("config, %s, %s: %w", k.name, x.Name, err)
			}
			pair = append(pair, r)
			p := percentiles(r.Seconds)
			fmt.Fprintf(os.Stderr, "%s, %s: %d edits, p50 %.1f ms, p99 %.1f ms, max %.1f ms", k.name, x.Name, len(r.Seconds), p[0]*1e3, p[1]*1e3, p[2]*1e3)
			if len(r.Patch) > 0 {
				fmt.Fprintf(os.Stderr, "; the PATCH itself p50 %.1f ms", percentiles(r.Patch)[0]*1e3)
			}
			fmt.Fprintln(os.Stderr)
		}
		a, b := pair[0], pair[1]
		pa, pb := percentiles(a.Seconds), percentiles(b.Seconds)
		fmt.Fprintf(w, "%s\t%d\t%.1f\t%.1f\t%.1f\t%d\t%.0f\t%.0f\t%.0f\t%.0f\t%d\t%d\t%.1f\t%.1f\t\n", x.Name,
			len(a.Seconds), pa[0]*1e3, pa[1]*1e3, pa[2]*1e3, len(b.Seconds), pb[0]*1e3, pb[1]*1e3, pb[2]*1e3, pb[0]/pa[0],
			a.Watches, b.Watches, a.CPU*100, b.CPU*100)
		all = append(all, pair...)
	}
	return all, w.Flush()
}

// percentiles are p50, p99 and the maximum.
func percentiles(v []float64) [3]float64 {
	v = slices.Sorted(slices.Values(v))
	return [3]float64{v[len(v)/2], v[len(v)*99/100], v[len(v)-1]}
}

// configRun runs one case on a cluster of its own.
func configRun(ctx context.Context, k kind, x configCase) (_ configResult, err error) {
	r := configResult{configCase: x, Cluster: k.name}
	dir, err := os.MkdirTemp("", "orlop-bench-")
	if err != nil {
		return r, err
	}
	defer func() {
		_, derr := orlop(context.WithoutCancel(ctx), dir, "down", "--purge")
		err = errors.Join(err, derr)
	}()
	for _, args := range [][]string{append([]string{"up", "--netns"}, k.flags...), {"images", "import", benchImageFile}} {
		if _, err := orlop(ctx, dir, args...); err != nil {
			return r, err
		}
	}
	b, err := newConfigCluster(ctx, dir, x)
	if err != nil {
		return r, err
	}
	// Controllers watch as well, the same with pods and without.
	before, err := b.watches(ctx)
	if err != nil {
		return r, err
	}
	if err := b.pods(ctx); err != nil {
		return r, err
	}
	after, err := b.watches(ctx)
	if err != nil {
		return r, err
	}
	r.Watches = after - before
	if r.CPU, err = b.idle(ctx); err != nil {
		return r, err
	}
	edits := x.edits
	if k.name == "plain" {
		if !x.label {
			// All at once: one after the other would take a minute each.
			r.Seconds, err = b.editAll(ctx)
			return r, err
		}
		edits = labelEdits
	}
	for i := range edits {
		took, patch, err := b.edit(ctx, i%x.volumes, i)
		if err != nil {
			return r, err
		}
		r.Seconds, r.Patch = append(r.Seconds, took.Seconds()), append(r.Patch, patch.Seconds())
	}
	if k.name == "plain" {
		r.Patch = nil
	}
	return r, nil
}
