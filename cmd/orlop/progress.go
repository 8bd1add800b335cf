package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"

	"github.com/orlop-io/orlop/cluster"
	"github.com/orlop-io/orlop/cluster/control"
	"github.com/orlop-io/orlop/cluster/supervisor"
)

// follow shows every change of the status until the predicate holds, the cluster answers no more (ErrNotRunning) or
// ctx ends.
func follow(ctx context.Context, client *control.Client, view *progress, until func(*cluster.Status) bool) (*cluster.Status, error) {
	var after *uint64
	for {
		s, err := client.Status(ctx, after)
		if err != nil {
			return nil, err
		}
		view.show(s)
		if until(s) {
			return s, nil
		}
		after = &s.Version
	}
}

// progress shows the components' states: on a terminal one line each, repainted in place; elsewhere a plain line for
// each change worth one.
type progress struct {
	out      io.Writer
	terminal bool
	stopping bool              // only what has stopped is news
	painted  int               // lines that stand on the terminal
	said     map[string]string // what was last printed of a component
}

func newProgress(out io.Writer) *progress {
	f, ok := out.(*os.File)
	return &progress{out: out, terminal: ok && term.IsTerminal(int(f.Fd())), said: map[string]string{}}
}

func (p *progress) show(s *cluster.Status) {
	if !p.terminal {
		p.showPlain(s)
		return
	}
	var b strings.Builder
	if p.painted > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", p.painted)
	}
	for _, c := range s.Components {
		fmt.Fprintf(&b, "\x1b[2K%s %-24s %s\n", mark(c.State), c.Name, describe(c))
	}
	p.painted = len(s.Components)
	// The terminal's own troubles are not the cluster's.
	_, _ = io.WriteString(p.out, b.String())
}

func (p *progress) showPlain(s *cluster.Status) {
	for _, c := range s.Components {
		news := c.State == supervisor.Ready || c.State == supervisor.Failed
		if p.stopping || s.Phase == cluster.PhaseStopping {
			news = c.State == supervisor.Stopped
		}
		if !news {
			continue
		}
		line := describe(c)
		if p.said[c.Name] == line {
			continue
		}
		p.said[c.Name] = line
		_, _ = fmt.Fprintf(p.out, "%-24s %s\n", c.Name, line)
	}
}

// done ends the repainting: what is printed next stands below.
func (p *progress) done() { p.painted = 0 }

// settle ends the repainting for good: what changes from now on is said in plain lines, below what stands.
func (p *progress) settle(s *cluster.Status) {
	p.done()
	p.terminal = false
	for _, c := range s.Components {
		p.said[c.Name] = describe(c)
	}
}

func mark(s supervisor.State) string {
	switch s {
	case supervisor.Ready:
		return "\x1b[32m✔\x1b[0m"
	case supervisor.Failed:
		return "\x1b[31m✘\x1b[0m"
	case supervisor.Stopped:
		return "\x1b[2m-\x1b[0m"
	default:
		return "\x1b[33m…\x1b[0m"
	}
}

func describe(c supervisor.Status) string {
	switch c.State {
	case supervisor.Ready:
		return fmt.Sprintf("ready after %.1f s", c.Took)
	case supervisor.Failed:
		return c.Reason + "; starting it again"
	case supervisor.Starting, supervisor.Waiting, supervisor.Stopping, supervisor.Stopped:
		return string(c.State)
	}
	return string(c.State)
}

// lastLines returns the last n lines of a file, indented, or why they cannot be had.
func lastLines(path string, n int) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return "  " + err.Error()
	}
	lines := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	return "  " + strings.Join(lines[max(0, len(lines)-n):], "\n  ")
}

// runningLayout is layout for commands that need the cluster to run.
func (o *options) runningLayout(ctx context.Context) (cluster.Layout, error) {
	l, err := o.layout()
	if err != nil {
		return l, err
	}
	return l, requireRunning(ctx, l)
}

// requireRunning returns an error that says how to start the cluster when it does not run.
func requireRunning(ctx context.Context, l cluster.Layout) error {
	client := control.NewClient(l.ControlSocket())
	defer client.Close()
	_, err := client.Status(ctx, nil)
	if errors.Is(err, control.ErrNotRunning) {
		return fmt.Errorf("the cluster in %s is not running: start it with 'orlop up'", l.DataDir)
	}
	return err
}
