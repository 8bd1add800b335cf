// Package sanity runs csi-sanity, the conformance tests of the Container Storage Interface, over Orlop's drivers as they
// are built and run.
//
// The specs are a module of their own, specs, since csi-test needs another version of the CSI specification than Kubernetes
// does. This package builds them and the driver, runs the one over the other, and checks what was skipped and what is left.
package sanity

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/orlop-io/orlop/test/leak"
)

func TestSanity(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts volumes")
	}
	dir := t.TempDir()
	bin, specs := filepath.Join(dir, "orlop-storage"), filepath.Join(dir, "specs")
	run(t, "go", "build", "-o", bin, "../../cmd/orlop-storage")
	run(t, "go", "test", "-C", "specs", "-c", "-o", specs, ".")
	for _, c := range []struct{ name, backend, access string }{
		{"dir", "dir", "mount"}, {"loop", "loop", "mount"}, {"loop block", "loop", "block"},
	} {
		t.Run(c.name, func(t *testing.T) {
			work := shortDir(t)
			leak.Check(t, leak.Under(work))
			startDriver(t, bin, work)
			cmd := exec.Command(specs, "-test.v", "-ginkgo.no-color")
			cmd.Env = append(os.Environ(), "ORLOP_SANITY_BACKEND="+c.backend, "ORLOP_SANITY_ACCESS="+c.access,
				"ORLOP_SANITY_DIR="+work)
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Errorf("%v\n%s", err, out)
			}
			t.Logf("%s", summary(string(out)))
			checkSkips(t, "skips.txt", skipped(t, work), advertised(t, work))
			checkPoolEmpty(t, work)
		})
	}
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

// summary is the line in which ginkgo counts the specs.
func summary(out string) string {
	for line := range strings.SplitSeq(out, "\n") {
		if strings.Contains(line, "Passed") {
			return strings.TrimSpace(line)
		}
	}
	return "the specs did not run to their end"
}

// advertised lists the capabilities that the driver advertises, as skips.txt writes them.
func advertised(t *testing.T, work string) []string {
	t.Helper()
	conn, err := grpc.NewClient("unix:"+socket(work), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	plugin, err1 := csi.NewIdentityClient(conn).GetPluginCapabilities(t.Context(), &csi.GetPluginCapabilitiesRequest{})
	controller, err2 := csi.NewControllerClient(conn).ControllerGetCapabilities(
		t.Context(), &csi.ControllerGetCapabilitiesRequest{})
	if status.Code(err2) == codes.Unimplemented {
		err2 = nil
	}
	node, err3 := csi.NewNodeClient(conn).NodeGetCapabilities(t.Context(), &csi.NodeGetCapabilitiesRequest{})
	if err := errors.Join(err1, err2, err3, conn.Close()); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, c := range plugin.GetCapabilities() {
		names = append(names, c.GetService().GetType().String())
	}
	for _, c := range controller.GetCapabilities() {
		names = append(names, c.GetRpc().GetType().String())
	}
	for _, c := range node.GetCapabilities() {
		names = append(names, c.GetRpc().GetType().String()+" (node)")
	}
	return names
}

// checkSkips compares the specs that were skipped with those that skips.txt allows, for capabilities that are really absent.
func checkSkips(t *testing.T, allowedIn string, skipped, advertised []string) {
	t.Helper()
	allowed := map[string]string{}
	list, err := os.Open(allowedIn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := list.Close(); err != nil {
			t.Error(err)
		}
	}()
	for scanner := bufio.NewScanner(list); scanner.Scan(); {
		line := strings.TrimSpace(scanner.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		why, spec, ok := strings.Cut(line, ": ")
		if !ok || why == "" {
			t.Fatalf("%s: no absent capability stands before %q", allowedIn, line)
		}
		if slices.Contains(advertised, why) {
			t.Errorf("%s: %s is advertised, and no reason to skip %s", allowedIn, why, spec)
		}
		allowed[spec] = why
	}
	for _, spec := range skipped {
		if _, ok := allowed[spec]; !ok {
			t.Errorf("skipped, and not in %s: %s", allowedIn, spec)
		}
	}
	for spec, why := range allowed {
		if !slices.Contains(skipped, spec) {
			t.Errorf("in %s for %s, and not skipped: %s", allowedIn, why, spec)
		}
	}
}

// skipped lists the specs that were skipped.
func skipped(t *testing.T, work string) []string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(work, "skipped"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(data)), "\n")
}

// checkPoolEmpty fails when the specs' volumes were not all deleted.
func checkPoolEmpty(t *testing.T, work string) {
	t.Helper()
	left, err := os.ReadDir(filepath.Join(work, "pool", "volumes"))
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range left {
		t.Errorf("volume left in the pool: %s", v.Name())
	}
}

// shortDir makes a directory whose path leaves room for the names of sockets.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "orlop-sanity-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func socket(work string) string { return filepath.Join(work, "csi.sock") }

// startDriver runs the driver until the test ends. csi-sanity waits for its socket by itself.
func startDriver(t *testing.T, bin, work string, flags ...string) {
	t.Helper()
	log, err := os.Create(filepath.Join(work, "driver.log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin, append([]string{"node", "--node-name=sanity", "--cluster-id=sanity",
		"--pool=" + filepath.Join(work, "pool"), "--socket=" + socket(work), "--registration-dir=", "--kubelet-dir=" + work,
		"--v=2"}, flags...)...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := cmd.Process.Signal(os.Interrupt)
		if err == nil {
			err = cmd.Wait()
		}
		if err != nil || t.Failed() {
			text, rerr := os.ReadFile(log.Name())
			t.Errorf("driver: %v, %v\n%s", err, rerr, tail(string(text)))
		}
		if err := log.Close(); err != nil {
			t.Error(err)
		}
	})
}

// tail shortens a log to what happened last.
func tail(log string) string {
	lines := strings.Split(log, "\n")
	if n := 200; len(lines) > n {
		lines = append([]string{fmt.Sprintf("(%d lines before)", len(lines)-n)}, lines[len(lines)-n:]...)
	}
	return strings.Join(lines, "\n")
}
