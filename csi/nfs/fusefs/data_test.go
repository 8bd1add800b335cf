package fusefs_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/csi/nfs/fusefs"
	"github.com/orlop-io/orlop/test/leak"
)

// TestMain makes a child of the test a process that uses a mount: a page fault in a mapping stops all of a Go process when it
// serves that mount itself.
func TestMain(m *testing.M) {
	if target := os.Getenv("ORLOP_TEST_RANDOM"); target != "" {
		flag.Parse()
		if err := random(target, os.Getenv("ORLOP_TEST_SERVED"), os.Getenv("ORLOP_TEST_SEED")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// A file under random writes, reads, truncations, mappings, syncs and reopenings is at every step what a plain array would
// be, and so is what is on the server after a sync; whatever happens to connections and server meanwhile.
func TestRandomOperations(t *testing.T) {
	leak.Check(t)
	s := serve(t)
	target, _ := mount(t, s.options, fusefs.Options{Dirty: 4 << 20})
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	var wg sync.WaitGroup
	for seed := range 4 {
		wg.Go(func() {
			cmd := exec.CommandContext(t.Context(), self)
			cmd.Env = append(os.Environ(), "ORLOP_TEST_RANDOM="+target, "ORLOP_TEST_SERVED="+s.dir, fmt.Sprint("ORLOP_TEST_SEED=", seed))
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("seed %d: %v: %s", seed, err, out)
			}
		})
	}
	go func() {
		wg.Wait()
		close(ended)
	}()
	faults := []func(){s.proxy.Reset, s.restart, func() { s.proxy.Stall(true) }, s.proxy.Heal, s.proxy.Refuse, s.proxy.Heal}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-ended:
			return
		case <-tick.C:
			faults[i%len(faults)]()
		}
	}
}

const (
	steps    = 300
	fileSize = 6 << 20
)

// random does the operations of a seed on a file of the mount; served is the directory on the server.
func random(target, served, seed string) error {
	number, err := strconv.ParseUint(seed, 10, 64)
	if err != nil {
		return err
	}
	r := rand.New(rand.NewPCG(number, 17))
	name := "file" + seed
	path := filepath.Join(target, name)
	open := func() (*os.File, error) { return os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600) }
	f, err := open()
	if err != nil {
		return err
	}
	var model []byte
	check := func(step int, what string, got []byte, from int) error {
		for i := range got {
			if got[i] != model[from+i] {
				return fmt.Errorf("step %d, %s: byte %d of %d differs (%#x, want %#x)", step, what, from+i, len(model), got[i], model[from+i])
			}
		}
		return nil
	}
	for step := range steps {
		size := []int{1, 100, 4096, 70000, 1 << 20, 2 << 20}[r.IntN(6)]
		at := r.IntN(fileSize - size)
		switch op := r.IntN(20); {
		case op < 9:
			data := bytes.Repeat([]byte{byte(step), byte(step >> 8), byte(r.Uint32())}, size/3+1)[:size]
			if at > len(model) && r.IntN(2) == 0 {
				at = len(model) // sequential, as most writers are
			}
			if _, err := f.WriteAt(data, int64(at)); err != nil {
				return err
			}
			if at+size > len(model) {
				model = append(model, make([]byte, at+size-len(model))...)
			}
			copy(model[at:], data)
		case op < 14:
			buf := make([]byte, size)
			n, err := f.ReadAt(buf, int64(at))
			if err != nil && !errors.Is(err, io.EOF) {
				return err
			}
			if want := min(max(len(model)-at, 0), size); n != want {
				return fmt.Errorf("step %d: read %d bytes at %d of %d, want %d", step, n, at, len(model), want)
			}
			if err := check(step, "read", buf[:n], min(at, len(model))); err != nil {
				return err
			}
		case op < 15:
			if err := f.Truncate(int64(at)); err != nil {
				return err
			}
			if at <= len(model) {
				model = model[:at:at]
			} else {
				model = append(model, make([]byte, at-len(model))...)
			}
		case op < 16:
			if err := f.Sync(); err != nil {
				return err
			}
			onServer, err := os.ReadFile(filepath.Join(served, name))
			if err != nil || len(onServer) != len(model) {
				return fmt.Errorf("step %d: %d bytes on the server, want %d, %w", step, len(onServer), len(model), err)
			}
			if err := check(step, "on the server", onServer, 0); err != nil {
				return err
			}
		case op < 17:
			if err := f.Close(); err != nil {
				return err
			}
			if f, err = open(); err != nil {
				return err
			}
		case op < 18 && len(model) > 0:
			m, err := unix.Mmap(int(f.Fd()), 0, len(model), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			if err != nil {
				return err
			}
			if err := check(step, "mapped", m, 0); err != nil {
				return err
			}
			i := r.IntN(len(model))
			m[i], model[i] = byte(step), byte(step)
			if err := unix.Munmap(m); err != nil {
				return err
			}
		default:
			if info, err := f.Stat(); err != nil || info.Size() != int64(len(model)) {
				return fmt.Errorf("step %d: size %d, want %d, %w", step, info.Size(), len(model), err)
			}
		}
	}
	if err := f.Close(); err != nil {
		return err
	}
	onServer, err := os.ReadFile(filepath.Join(served, name))
	if err != nil || len(onServer) != len(model) {
		return fmt.Errorf("%d bytes on the server, want %d, %w", len(onServer), len(model), err)
	}
	if err := check(steps, "on the server after the close", onServer, 0); err != nil {
		return err
	}
	return nil
}

// What a server lost, because it was started anew before it had brought unstable writes to its disk, is sent again, in the
// right order.
func TestServerLosesUnstableWrites(t *testing.T) {
	leak.Check(t)
	s := serve(t)
	target, _ := mount(t, s.options, fusefs.Options{})
	f, err := os.Create(filepath.Join(target, "file"))
	if err != nil {
		t.Fatal(err)
	}
	want := make([]byte, 3<<20)
	write := func(at, size int, value byte) {
		t.Helper()
		part := bytes.Repeat([]byte{value}, size)
		copy(want[at:], part)
		if _, err := f.WriteAt(part, int64(at)); err != nil {
			t.Fatal(err)
		}
	}
	write(0, len(want), 1)
	write(1000, 500000, 2)
	if _, err := f.Stat(); err != nil { // sends all
		t.Fatal(err)
	}
	s.restart()
	if err := os.WriteFile(filepath.Join(s.dir, "file"), make([]byte, 10), 0o600); err != nil {
		t.Fatal(err)
	}
	write(200000, 1<<20, 3) // newer than what is lost, on the new server
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(s.dir, "file")); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes on the server differ from the %d that were written, %v", len(got), len(want), err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}

// Close to open: who opens a file sees what was closed before, elsewhere.
func TestCloseToOpen(t *testing.T) {
	leak.Check(t)
	s := serve(t)
	one, _ := mount(t, s.options, fusefs.Options{})
	other, _ := mount(t, s.options, fusefs.Options{AttrTimeout: -1})
	for i := range 50 {
		want := []byte(strings.Repeat(fmt.Sprint(i), 1+i*100))
		from, to := one, other
		if i%2 == 1 {
			from, to = other, one
		}
		if err := os.WriteFile(filepath.Join(from, "file"), want, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(to, "file"))
		// Names and sizes may be believed for the timeout; the data of an opened file may not.
		if err != nil || to == other && !bytes.Equal(got, want) {
			t.Fatalf("round %d: %d bytes, want %d, %v", i, len(got), len(want), err)
		}
	}
}

// A full server is an error of write, fsync or close, and never silence.
func TestServerFull(t *testing.T) {
	leak.Check(t)
	s := serveDir(t, func(dir string) {
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(dir, 0); err != nil {
				t.Error(err)
			}
		})
	})
	target, _ := mount(t, s.options, fusefs.Options{})
	for _, end := range []string{"fsync", "close"} {
		f, err := os.Create(filepath.Join(target, end))
		if err != nil {
			t.Fatal(err)
		}
		_, errWrite := f.Write(make([]byte, 4<<20))
		var errSync error
		if end == "fsync" {
			errSync = f.Sync()
			if err := f.Sync(); err != nil {
				t.Errorf("the failure is told twice: %v", err)
			}
		}
		errClose := f.Close()
		if err := errors.Join(errWrite, errSync, errClose); !errors.Is(err, unix.ENOSPC) {
			t.Errorf("%s: %v", end, err)
		}
		if err := os.Remove(filepath.Join(target, end)); err != nil {
			t.Error(err)
		}
	}
	if err := os.WriteFile(filepath.Join(target, "fits"), make([]byte, 1000), 0o600); err != nil {
		t.Error(err)
	}
}

// While the server is away, whoever waits can be killed, other signals interrupt nothing, the mount can be taken away,
// and nothing grows.
func TestOutage(t *testing.T) {
	leak.Check(t)
	s := serve(t)
	target, _ := mount(t, s.options, fusefs.Options{AttrTimeout: -1})
	if err := os.WriteFile(filepath.Join(target, "file"), []byte("data"), 0o644); err != nil {
		t.Fatal(err)
	}
	s.proxy.Stall(false)
	var waiting []*exec.Cmd
	for _, command := range []string{
		"cat $0/file", "echo x > $0/new", "ls -l $0", "stat $0/file", "mkdir $0/dir", "rm $0/file", "dd if=/dev/zero of=$0/big bs=1M count=200",
	} {
		cmd := exec.Command("sh", "-c", command, target)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		waiting = append(waiting, cmd)
	}
	before := runtime.NumGoroutine()
	ended := make(chan int, len(waiting))
	for i, cmd := range waiting {
		go func() {
			_ = cmd.Wait() // by the signal
			ended <- i
		}()
	}
	// A signal that does not end a process does not interrupt its call.
	for _, cmd := range waiting {
		if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGCONT); err != nil {
			t.Error(err)
		}
	}
	select {
	case i := <-ended:
		t.Errorf("%v ended while the server was away", waiting[i].Args)
	case <-time.After(time.Second):
	}
	for _, cmd := range waiting {
		if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); err != nil {
			t.Error(err)
		}
	}
	deadline := time.After(20 * time.Second)
	for range waiting {
		select {
		case <-ended:
		case <-deadline:
			t.Fatal("a process that was killed still waits")
		}
	}
	t.Logf("goroutines: %d with %d waiting, %d after", before, len(waiting), runtime.NumGoroutine())
	s.proxy.Heal()
	if got, err := os.ReadFile(filepath.Join(target, "file")); err != nil && !errors.Is(err, os.ErrNotExist) || err == nil && string(got) != "data" {
		t.Errorf("after the outage: %q, %v", got, err)
	}
}

// Writers go on after an outage, with no byte lost.
func TestWritersSurviveOutage(t *testing.T) {
	leak.Check(t)
	s := serve(t)
	target, _ := mount(t, s.options, fusefs.Options{Dirty: 2 << 20})
	var wg sync.WaitGroup
	const writers, size = 4, 12 << 20
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(i * 7 / 3)
	}
	for i := range writers {
		wg.Go(func() {
			if err := os.WriteFile(filepath.Join(target, fmt.Sprint(i)), data, 0o600); err != nil {
				t.Error(err)
			}
		})
	}
	for _, fault := range []func(){s.proxy.Reset, func() { s.proxy.Stall(true) }, s.proxy.Heal, s.proxy.Refuse, s.restart, s.proxy.Heal, s.proxy.Reset} {
		fault()
		<-time.After(150 * time.Millisecond)
	}
	wg.Wait()
	for i := range writers {
		if got, err := os.ReadFile(filepath.Join(s.dir, fmt.Sprint(i))); err != nil || !bytes.Equal(got, data) {
			t.Errorf("writer %d: %d bytes, %v", i, len(got), err)
		}
	}
}

// The server sees who calls, with supplementary groups.
func TestCallers(t *testing.T) {
	leak.Check(t)
	s := serve(t)
	target, _ := mount(t, s.options, fusefs.Options{})
	dir := filepath.Join(target, "dir")
	if err := errors.Join(os.Mkdir(dir, 0o770), os.Chown(dir, 0, 4321), os.Chmod(dir, 0o770|os.ModeSetgid)); err != nil {
		t.Fatal(err)
	}
	run := func(uid, gid uint32, groups []uint32, script string) error {
		cmd := exec.Command("sh", "-c", script)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid, Groups: groups}}
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
	for up := filepath.Dir(target); up != os.TempDir() && up != "/"; up = filepath.Dir(up) {
		if err := os.Chmod(up, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := run(1000, 1000, []uint32{1, 2, 4321}, "echo hello > "+dir+"/f && cat "+dir+"/f"); err != nil {
		t.Error(err)
	}
	if err := run(1000, 1000, []uint32{1, 2}, "cat "+dir+"/f"); err == nil {
		t.Error("a stranger reads")
	}
	info, err := os.Stat(filepath.Join(s.dir, "dir", "f"))
	if err != nil {
		t.Fatal(err)
	}
	if st := info.Sys().(*syscall.Stat_t); st.Uid != 1000 || st.Gid != 4321 {
		t.Errorf("owner %d:%d", st.Uid, st.Gid)
	}
}

func TestReadOnly(t *testing.T) {
	leak.Check(t)
	s := serve(t)
	target, _ := mount(t, s.options, fusefs.Options{ReadOnly: true})
	if err := os.WriteFile(filepath.Join(target, "file"), nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Error(err)
	}
}
