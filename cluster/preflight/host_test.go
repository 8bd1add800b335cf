package preflight

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/cluster/osthread"
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
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
		t.Run(addr, func(t *testing.T) {
			l, err := net.Listen("tcp", addr)
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
			program := os.Args[0][:min(len(os.Args[0]), 80)]
			want := fmt.Sprintf("port %d: in use by process %d (%s", port, child.Process.Pid, program)
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

// TestFirewallForReal writes firewalls into a network namespace of its own and reads them back.
func TestFirewallForReal(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes a network namespace")
	}
	must(t, osthread.Run(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		if dropping, err := readFirewall(); err != nil || len(dropping) != 0 {
			t.Errorf("without a firewall: %v, %v", dropping, err)
		}
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		drop, accept := nftables.ChainPolicyDrop, nftables.ChainPolicyAccept
		for _, c := range []struct {
			family nftables.TableFamily
			table  string
			hook   *nftables.ChainHook
			policy *nftables.ChainPolicy
		}{
			{nftables.TableFamilyIPv4, "filter", nftables.ChainHookForward, &drop},
			{nftables.TableFamilyINet, "both", nftables.ChainHookForward, &drop},
			{nftables.TableFamilyIPv6, "six", nftables.ChainHookForward, &drop},
			{nftables.TableFamilyIPv4, "open", nftables.ChainHookForward, &accept},
			{nftables.TableFamilyIPv4, "input", nftables.ChainHookInput, &drop},
		} {
			conn.AddChain(&nftables.Chain{
				Table: conn.AddTable(&nftables.Table{Family: c.family, Name: c.table}), Name: "base",
				Hooknum: c.hook, Policy: c.policy, Type: nftables.ChainTypeFilter, Priority: nftables.ChainPriorityFilter,
			})
		}
		if err := conn.Flush(); err != nil {
			return err
		}
		dropping, err := readFirewall()
		slices.Sort(dropping)
		if err != nil || !slices.Equal(dropping, []string{"inet both base", "ip filter base"}) {
			t.Errorf("with some that drop forwarded packets: %v, %v", dropping, err)
		}
		// What the problem advises is something that nft understands.
		m := host()
		m.firewall = func() ([]string, error) { return dropping, err }
		problems := checkProxy(t.Context(), m, Options{Netns: true}, &Facts{Kernel: "6.1.0"})
		if m.tool("nft") == "" {
			return nil
		}
		if len(problems) != len(dropping) {
			t.Errorf("problems %v", problems)
		}
		for _, p := range problems {
			_, advice, _ := strings.Cut(p.Next, ": ")
			if out, err := exec.Command("sh", "-c", advice).CombinedOutput(); err != nil {
				t.Errorf("%s: %v: %s", advice, err, out)
			}
		}
		return nil
	}))
}
