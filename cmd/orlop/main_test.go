package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/orlop-io/orlop/cluster"
	"github.com/orlop-io/orlop/cluster/control"
	"github.com/orlop-io/orlop/cluster/supervisor"
)

// run runs the command line in this process.
func run(t *testing.T, args ...string) (stdout string, err error) {
	t.Helper()
	var out bytes.Buffer
	cmd := newRootCommand()
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	err = cmd.ExecuteContext(t.Context())
	return out.String(), err
}

// answering is a cluster in dataDir that only its control socket has of one.
type answering struct{ status cluster.Status }

func (a answering) Status() cluster.Status             { return a.status }
func (a answering) Wait(ctx context.Context, _ uint64) { <-ctx.Done() }

func answer(t *testing.T, dataDir string, status cluster.Status) {
	t.Helper()
	l := cluster.Layout{DataDir: dataDir}
	if err := os.MkdirAll(filepath.Dir(l.ControlSocket()), 0o700); err != nil {
		t.Fatal(err)
	}
	listener, err := control.Listen(t.Context(), l.ControlSocket())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- control.Serve(ctx, listener, answering{status}, func() {}) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
}

func TestStatusAndItsExitCodes(t *testing.T) {
	components := []supervisor.Status{
		{Name: "etcd", State: supervisor.Ready, PID: 42, Restarts: 1},
		{Name: "kubelet", State: supervisor.Waiting, Reason: "node n is not Ready"},
	}
	for _, tt := range []struct {
		name   string
		status *cluster.Status // nil for none running
		state  string          // cluster.json
		code   exitError
		want   []string
	}{
		{"nothing there", nil, "", statusNotRunning, []string{"There is no cluster in "}},
		{"stopped", nil, `{"version":1,"id":"0a1b2c3d","node":"n"}`, statusNotRunning, []string{"is stopped."}},
		{"ready", &cluster.Status{ID: "0a1b2c3d", Phase: cluster.PhaseReady, Components: components}, "", 0,
			[]string{"cluster    0a1b2c3d (ready)", "etcd        ready     42    1", "kubelet     waiting   -     0", "node n is not Ready"}},
		{"starting", &cluster.Status{Phase: cluster.PhaseStarting}, "", 1, []string{"(starting)"}},
		{"stopping", &cluster.Status{Phase: cluster.PhaseStopping}, "", 1, []string{"(stopping)"}},
		{"failed", &cluster.Status{Phase: cluster.PhaseFailed, Error: "dns exited with status 1"}, "", 1,
			[]string{"(failed)", "error      dns exited with status 1"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			if tt.state != "" {
				writeFile(t, filepath.Join(dir, "cluster.json"), tt.state)
			}
			if tt.status != nil {
				answer(t, dir, *tt.status)
			}
			out, err := run(t, "status", "--data-dir", dir)
			var code exitError
			if err != nil && !errors.As(err, &code) || code != tt.code {
				t.Errorf("ended with %v, want status %d", err, tt.code)
			}
			for _, want := range tt.want {
				if !strings.Contains(out, want) {
					t.Errorf("%q is not in:\n%s", want, out)
				}
			}
			var decoded cluster.Status
			out, err = run(t, "status", "--data-dir", dir, "-o", "json")
			if !errors.As(err, &code) && err != nil || code != tt.code {
				t.Errorf("as JSON it ended with %v", err)
			}
			if err := json.Unmarshal([]byte(out), &decoded); err != nil {
				t.Fatalf("%v in:\n%s", err, out)
			}
			if tt.status != nil && decoded.Phase != tt.status.Phase || tt.status == nil && decoded.Phase != cluster.PhaseStopped {
				t.Errorf("phase %q", decoded.Phase)
			}
		})
	}
}

func TestCommandsOnARunningCluster(t *testing.T) {
	dir := t.TempDir()
	answer(t, dir, cluster.Status{Phase: cluster.PhaseReady, Server: "https://127.0.0.1:6443", DataDir: dir})
	out, err := run(t, "up", "--data-dir", dir)
	if err != nil || !strings.Contains(out, "is running already") || !strings.Contains(out, "--data-dir "+dir+" kubectl get nodes") {
		t.Errorf("up: %v\n%s", err, out)
	}
	if _, err := run(t, "up", "--data-dir", dir, "--netns"); err == nil || !strings.Contains(err.Error(), "--netns=false") {
		t.Errorf("up in another mode: %v", err)
	}
}

func TestUpWhileTheClusterStops(t *testing.T) {
	dir := t.TempDir()
	answer(t, dir, cluster.Status{Phase: cluster.PhaseStopping})
	if _, err := run(t, "up", "--data-dir", dir); err == nil || !strings.Contains(err.Error(), "is being stopped") {
		t.Errorf("got %v", err)
	}
}

func TestCommandsWithoutACluster(t *testing.T) {
	dir := t.TempDir()
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"kubectl", "get", "nodes"}, "run 'orlop up' first"},
		{[]string{"logs", "etcd"}, "no cluster was started in " + dir},
		{[]string{"images", "list"}, "start it with 'orlop up'"},
		{[]string{"images", "import"}, "requires at least 1 arg"},
		{[]string{"status", "-o", "yaml"}, `--output "yaml" is unknown: the only format is json`},
		{[]string{"version", "-o", "yaml"}, `--output "yaml" is unknown`},
		{[]string{"up", "surplus"}, `unknown command "surplus"`},
		{[]string{"frobnicate"}, `unknown command "frobnicate"`},
	} {
		t.Run(strings.Join(tt.args, " "), func(t *testing.T) {
			t.Setenv("ORLOP_DATA_DIR", dir)
			if _, err := run(t, tt.args...); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
	t.Setenv("ORLOP_DATA_DIR", dir)
	if out, err := run(t, "down", "--purge"); err != nil || out != "There is no cluster in "+dir+".\n" {
		t.Errorf("down: %q, %v", out, err)
	}
}

func TestUpRefusesDataDirs(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	writeFile(t, file, "x")
	for dir, want := range map[string]string{
		"/tmp/" + strings.Repeat("d", 120): "the kernel allows 107",
		"/tmp/a:b":                         "choose a --data-dir without it",
		file + "/data":                     "not a directory",
		"/proc/orlop-data":                 "choose another with --data-dir",
		"":                                 "--data-dir is empty",
	} {
		if _, err := run(t, "up", "--data-dir", dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", dir, err, want)
		}
	}
}

func TestVersion(t *testing.T) {
	out, err := run(t, "version", "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	var v map[string]string
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"orlop", "kubernetes", "etcd", "coredns", "go"} {
		if v[name] == "" {
			t.Errorf("no version of %s in %v", name, v)
		}
	}
	out, err = run(t, "version")
	if err != nil || !strings.HasPrefix(out, "orlop ") || strings.Count(out, "\n") != len(v) {
		t.Errorf("%v:\n%s", err, out)
	}
}

func TestDataDir(t *testing.T) {
	base, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(base, "link")
	if err := os.MkdirAll(filepath.Join(base, "real dir", "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("real dir", link); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("nowhere", filepath.Join(base, "dangling")); err != nil {
		t.Fatal(err)
	}
	t.Chdir(base)
	for dir, want := range map[string]string{
		"real dir":         base + "/real dir",
		"./real dir/../x":  base + "/x",
		link:               base + "/real dir",
		link + "/sub/":     base + "/real dir/sub",
		link + "/new/deep": base + "/real dir/new/deep", // the same before and after it is made
		"/":                "/",
	} {
		l, err := (&options{dataDir: dir}).layout()
		if err != nil || l.DataDir != want {
			t.Errorf("%q became %q (%v), want %q", dir, l.DataDir, err, want)
		}
	}
	if l, err := (&options{dataDir: "dangling"}).layout(); err == nil {
		t.Errorf("a link into nothing became %q", l.DataDir)
	}
}

func TestDataDirComesFromFlagThenEnvironment(t *testing.T) {
	t.Setenv("ORLOP_DATA_DIR", "/from/environment")
	get := func(args ...string) string {
		cmd := newRootCommand()
		if err := cmd.PersistentFlags().Parse(args); err != nil {
			t.Fatal(err)
		}
		dir, err := cmd.PersistentFlags().GetString("data-dir")
		if err != nil {
			t.Fatal(err)
		}
		return dir
	}
	if got := get(); got != "/from/environment" {
		t.Errorf("from the environment: %q", got)
	}
	if got := get("--data-dir=/from/flag"); got != "/from/flag" {
		t.Errorf("from the flag: %q", got)
	}
	t.Setenv("ORLOP_DATA_DIR", "")
	if got := get(); got != defaultDataDir {
		t.Errorf("by default: %q", got)
	}
}

func TestTakeDataDir(t *testing.T) {
	for _, tt := range []struct {
		args []string
		dir  string // "-" for none
		rest []string
		fail bool
	}{
		{nil, "-", nil, false},
		{[]string{"get", "pods"}, "-", []string{"get", "pods"}, false},
		{[]string{"--data-dir", "/d", "get", "pods"}, "/d", []string{"get", "pods"}, false},
		{[]string{"--data-dir=/d", "get"}, "/d", []string{"get"}, false},
		{[]string{"--data-dir=", "get"}, "", []string{"get"}, false},
		{[]string{"--data-dir"}, "", nil, true},
		// Whatever follows kubectl's own arguments is kubectl's, or that of what it runs.
		{[]string{"exec", "p", "--", "ls", "--data-dir", "/d"}, "-", []string{"exec", "p", "--", "ls", "--data-dir", "/d"}, false},
	} {
		dir, rest, err := takeDataDir(tt.args)
		got := "-"
		if dir != nil {
			got = *dir
		}
		if (err != nil) != tt.fail || !tt.fail && (got != tt.dir || !slices.Equal(rest, tt.rest)) {
			t.Errorf("%q: %q, %q, %v", tt.args, got, rest, err)
		}
	}
}

func TestKubectlWithoutItsKubeconfig(t *testing.T) {
	t.Setenv("ORLOP_DATA_DIR", "/nowhere")
	dir := t.TempDir()
	for _, args := range [][]string{{"kubectl", "--data-dir", dir, "get", "pods"}, {"--data-dir", dir, "kubectl", "get", "pods"},
		{"kubectl", "--data-dir=" + dir, "get", "pods"}} {
		if _, err := run(t, args...); err == nil || !strings.Contains(err.Error(), filepath.Join(dir, "kubeconfig")) {
			t.Errorf("%q: %v", args, err)
		}
	}
}

func writeFile(t *testing.T, path, data string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
}
