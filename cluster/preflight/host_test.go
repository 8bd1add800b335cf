package preflight

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// listenerEnv has the test binary hold a listener that it inherited, until its standard input is closed.
const listenerEnv = "ORLOP_PREFLIGHT_LISTENER"

func TestMain(m *testing.M) {
	if os.Getenv(listenerEnv) != "" {
		if _, err := os.Stdin.Read(make([]byte, 1)); err != nil {
			os.Exit(0)
		}
	}
	os.Exit(m.Run())
}

// TestPortHolderIsNamed has a child process, and it alone, listen on a port.
func TestPortHolderIsNamed(t *testing.T) {
	for _, network := range []string{"tcp4", "tcp6"} {
		t.Run(network, func(t *testing.T) {
			l, err := net.Listen(network, "localhost:0")
			if err != nil {
				t.Skipf("listening: %v", err)
			}
			port := l.Addr().(*net.TCPAddr).Port
			file, err := l.(*net.TCPListener).File()
			must(t, err)
			child := exec.Command(os.Args[0])
			child.Env = append(os.Environ(), listenerEnv+"=1")
			child.ExtraFiles = []*os.File{file}
			stdin, err := child.StdinPipe()
			must(t, err)
			must(t, child.Start())
			defer func() {
				must(t, stdin.Close())
				if err := child.Wait(); err != nil {
					t.Error(err)
				}
			}()
			must(t, file.Close())
			must(t, l.Close())

			problems := checkPorts(t.Context(), host(), Options{Ports: []int{port}}, &Facts{})
			want := fmt.Sprintf("port %d: in use by process %d (%s", port, child.Process.Pid, os.Args[0][:min(len(os.Args[0]), 80)])
			if len(problems) != 1 || !problems[0].Fatal || !strings.HasPrefix(problems[0].Error(), want) {
				t.Errorf("got %v, want %s…", problems, want)
			}
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestThisHost runs all checks for real. What they find depends on the host; that they find the same twice does not.
func TestThisHost(t *testing.T) {
	opts := Options{DataDir: t.TempDir(), MinFree: 1}
	facts, problems := Run(t.Context(), opts)
	t.Logf("facts %+v, problems %v", facts, problems)
	if facts.Kernel == "" || facts.Hostname == "" || facts.KubeProxyMode == "" {
		t.Errorf("facts are missing: %+v", facts)
	}
	_, again := Run(t.Context(), opts)
	if len(again) != len(problems) {
		t.Errorf("problems %v, and then %v", problems, again)
	}
	if entries, err := os.ReadDir(opts.DataDir); err != nil || len(entries) != 0 {
		t.Errorf("the checks left %v, %v", entries, err)
	}
}

func BenchmarkRun(b *testing.B) {
	opts := Options{DataDir: b.TempDir(), Ports: []int{6443, 2379, 10250}}
	for b.Loop() {
		Run(b.Context(), opts)
	}
}
