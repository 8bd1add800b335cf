package registration

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fsnotify/fsnotify"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/orlop-io/orlop/csi/host"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// start runs a registrar until the test ends.
func start(t *testing.T) *Registrar {
	t.Helper()
	r := New("test.csi", "/csi.sock", filepath.Join(t.TempDir(), "reg"), host.New(nil).ListenUnix)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(r.Socket()); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the socket is left: %v", err)
		}
	})
	return r
}

// call is the kubelet's side: it asks who is there and says how the registration went.
func call(t *testing.T, r *Registrar, result *registerapi.RegistrationStatus) *registerapi.PluginInfo {
	t.Helper()
	conn, err := grpc.NewClient("unix:"+r.Socket(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}()
	client := registerapi.NewRegistrationClient(conn)
	// The socket may not be there yet.
	info, err := client.GetInfo(t.Context(), &registerapi.InfoRequest{}, grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.NotifyRegistrationStatus(t.Context(), result); err != nil {
		t.Fatal(err)
	}
	return info
}

func TestRegister(t *testing.T) {
	r := start(t)
	if r.Ready() == nil {
		t.Error("ready before the kubelet came")
	}
	info := call(t, r, &registerapi.RegistrationStatus{PluginRegistered: false, Error: "no CSINode"})
	if info.GetType() != registerapi.CSIPlugin || info.GetName() != "test.csi" || info.GetEndpoint() != "/csi.sock" {
		t.Errorf("info is %v", info)
	}
	if err := r.Ready(); err == nil || !strings.Contains(err.Error(), "no CSINode") {
		t.Errorf("after a refusal: %v", err)
	}
	call(t, r, &registerapi.RegistrationStatus{PluginRegistered: true})
	if err := r.Ready(); err != nil {
		t.Error(err)
	}
}

// A socket that someone removes, alone or with its directory, is made again.
func TestSocketComesBack(t *testing.T) {
	r := start(t)
	call(t, r, &registerapi.RegistrationStatus{PluginRegistered: true})
	for _, remove := range []func() error{
		func() error { return os.Remove(r.Socket()) },
		func() error { return os.RemoveAll(filepath.Dir(r.Socket())) },
	} {
		if err := remove(); err != nil {
			t.Fatal(err)
		}
		appears(t, r.Socket())
		call(t, r, &registerapi.RegistrationStatus{PluginRegistered: true})
	}
}

// appears waits, as the kubelet does, for a file to be there.
func appears(t *testing.T, path string) {
	t.Helper()
	w, err := fsnotify.NewWatcher()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	}()
	if err := w.Add(filepath.Dir(filepath.Dir(path))); err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Lstat(path); err == nil {
			return
		}
		if err := w.Add(filepath.Dir(path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		if _, err := os.Lstat(path); err == nil {
			return
		}
		select {
		case <-w.Events:
		case err := <-w.Errors:
			t.Fatal(err)
		}
	}
}
