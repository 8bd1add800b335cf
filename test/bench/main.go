// Command bench measures the bundled cluster: the time from `orlop up` to a cluster that is ready, the memory of an idle
// one, and the time from the edit of a ConfigMap to the new file in a running pod. Beside it, in the same run and in
// turn, it measures the same for --plain: upstream's Kubernetes with its own volume controllers, its own configuration
// volumes and none of Orlop's parts. Quote the ratio: absolute figures are of this machine, on this day.
//
//	make build && go run ./test/bench -rounds 5
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/orlop-io/orlop/cluster"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	rounds := flag.Int("rounds", 5, "how often each kind of cluster is started; 0 leaves that out")
	settle := flag.Duration("settle", 30*time.Second, "how long a cluster is left idle before its memory is read")
	config := flag.Bool("config", true, "measure configuration volumes")
	cases := flag.String("cases", "", "only those cases of configuration volumes whose name contains this `TEXT`")
	output := flag.String("json", "", "also write what was measured of configuration volumes, every edit, to this `FILE`")
	flag.Parse()
	var err error
	if *rounds > 0 {
		err = run(ctx, *rounds, *settle)
	}
	if err == nil && *config {
		var results []configResult
		if results, err = configBench(ctx, *cases); err == nil && *output != "" {
			err = writeJSON(*output, results)
		}
	}
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func writeJSON(file string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(data, '\n'), 0o644)
}

// kind is a way to start a cluster, with what was measured of it.
type kind struct {
	name   string
	flags  []string
	first  []float64 // seconds to ready, of a new cluster
	again  []float64 // seconds to ready, of one that was stopped
	memory []float64 // MB
	parts  map[string]float64
}

func run(ctx context.Context, rounds int, settle time.Duration) error {
	if os.Geteuid() != 0 {
		return errors.New("a cluster needs root: run it with sudo")
	}
	ours := &kind{name: "orlop"}
	plain := &kind{name: "plain", flags: []string{"--plain"}}
	// One that is not counted warms the page cache.
	if err := measure(ctx, &kind{name: "warm-up"}, 0); err != nil {
		return err
	}
	for i := range rounds {
		for _, k := range []*kind{ours, plain} {
			// Memory is read once: it hardly differs, and takes the longest.
			wait := settle
			if i > 0 {
				wait = 0
			}
			if err := measure(ctx, k, wait); err != nil {
				return fmt.Errorf("%s: %w", k.name, err)
			}
		}
	}
	return report(ours, plain)
}

func measure(ctx context.Context, k *kind, settle time.Duration) (err error) {
	dir, err := os.MkdirTemp("", "orlop-bench-")
	if err != nil {
		return err
	}
	defer func() {
		// Also when ctx has ended: nothing is to be left.
		_, derr := orlop(context.WithoutCancel(ctx), dir, "down", "--purge")
		err = errors.Join(err, derr)
	}()
	up := append([]string{"up", "--netns"}, k.flags...)
	for _, times := range []*[]float64{&k.first, &k.again} {
		started := time.Now()
		if _, err := orlop(ctx, dir, up...); err != nil {
			return err
		}
		*times = append(*times, time.Since(started).Seconds())
		if times == &k.first {
			if _, err := orlop(ctx, dir, "down"); err != nil {
				return err
			}
		}
	}
	if settle == 0 {
		return nil
	}
	select {
	case <-time.After(settle):
	case <-ctx.Done():
		return ctx.Err()
	}
	k.parts, err = memory(ctx, dir)
	sum := 0.0
	for _, mb := range k.parts {
		sum += mb
	}
	k.memory = append(k.memory, sum)
	return err
}

func orlop(ctx context.Context, dir string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, filepath.Join("bin", "orlop"), args...)
	cmd.Env = append(os.Environ(), "ORLOP_DATA_DIR="+dir)
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, exit.Stderr)
		}
		return nil, fmt.Errorf("orlop %s: %w", strings.Join(args, " "), err)
	}
	return out, nil
}

// memory returns the proportional set size of every process of the cluster, in MB (10⁶ bytes). There are no pods, so no
// workload's process is among them.
func memory(ctx context.Context, dir string) (map[string]float64, error) {
	out, err := orlop(ctx, dir, "status", "-o", "json")
	if err != nil {
		return nil, err
	}
	var s cluster.Status
	if err := json.Unmarshal(out, &s); err != nil {
		return nil, err
	}
	parts := map[string]float64{}
	if parts["supervisor"], err = pss(s.PID); err != nil {
		return nil, err
	}
	for _, c := range s.Components {
		if parts[c.Name], err = pss(c.PID); err != nil {
			return nil, err
		}
	}
	return parts, nil
}

func pss(pid int) (float64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "Pss:"); ok {
			kb, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 64)
			return kb * 1024 / 1e6, err
		}
	}
	return 0, fmt.Errorf("process %d: no Pss in smaps_rollup", pid)
}

func report(ours, plain *kind) error {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "\torlop min\tmedian\tmax\tplain min\tmedian\tmax\tratio of medians\t")
	for _, row := range []struct {
		name        string
		ours, plain []float64
	}{
		{"up to ready, new cluster, s", ours.first, plain.first},
		{"up to ready, stopped cluster, s", ours.again, plain.again},
		{"memory of the idle cluster (PSS), MB", ours.memory, plain.memory},
	} {
		a, b := spread(row.ours), spread(row.plain)
		fmt.Fprintf(w, "%s\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t\n", row.name,
			a[0], a[1], a[2], b[0], b[1], b[2], a[1]/b[1])
	}
	fmt.Fprintln(w, "\t\t\t\t\t\t\t\t")
	names := make([]string, 0, len(ours.parts))
	for name := range ours.parts {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int { return int(ours.parts[b] - ours.parts[a]) })
	for _, name := range names {
		fmt.Fprintf(w, "%s, MB\t\t%.1f\t\t\t%.1f\t\t\t\n", name, ours.parts[name], plain.parts[name])
	}
	return w.Flush()
}

// spread is minimum, median and maximum.
func spread(v []float64) [3]float64 {
	v = slices.Sorted(slices.Values(v))
	return [3]float64{v[0], v[len(v)/2], v[len(v)-1]}
}
