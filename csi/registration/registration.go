// Package registration makes a CSI driver known to the kubelet, in process: it serves the kubelet's plugin registration
// API (k8s.io/kubelet/pkg/apis/pluginregistration/v1) on a socket in the kubelet's registration directory, which the
// kubelet watches.
//
// A kubelet that restarts finds the socket by itself. When the socket, or the directory, is removed, the package makes
// it anew, and the kubelet registers the driver again.
package registration

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"

	"github.com/fsnotify/fsnotify"
	"google.golang.org/grpc"
	"k8s.io/klog/v2"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// csiVersion is the version of the CSI specification that is announced: the kubelet takes any 1.x.
const csiVersion = "1.0.0"

// Registrar registers one driver. Its methods are safe for concurrent use.
type Registrar struct {
	registerapi.UnimplementedRegistrationServer

	driver   string
	endpoint string
	dir      string
	listen   func(path string) (net.Listener, error)

	mu  sync.Mutex
	err error // why the driver is not registered; nil when it is
}

var _ registerapi.RegistrationServer = (*Registrar)(nil)

// New returns a registrar for the driver of that name, whose CSI socket is endpoint, with a kubelet whose registration
// directory is dir. listen opens Unix sockets.
func New(driver, endpoint, dir string, listen func(path string) (net.Listener, error)) *Registrar {
	return &Registrar{
		driver: driver, endpoint: endpoint, dir: dir, listen: listen,
		err: errors.New("the kubelet has not registered the driver yet"),
	}
}

// Socket returns the path of the registration socket.
func (r *Registrar) Socket() string { return filepath.Join(r.dir, r.driver+"-reg.sock") }

// Ready says why the kubelet does not use the driver, nil when it does.
func (r *Registrar) Ready() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// GetInfo implements registerapi.RegistrationServer.
func (r *Registrar) GetInfo(context.Context, *registerapi.InfoRequest) (*registerapi.PluginInfo, error) {
	return &registerapi.PluginInfo{
		Type: registerapi.CSIPlugin, Name: r.driver, Endpoint: r.endpoint, SupportedVersions: []string{csiVersion},
	}, nil
}

// NotifyRegistrationStatus implements registerapi.RegistrationServer: the kubelet says how the registration went.
func (r *Registrar) NotifyRegistrationStatus(
	ctx context.Context, s *registerapi.RegistrationStatus,
) (*registerapi.RegistrationStatusResponse, error) {
	log := klog.FromContext(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err = nil; !s.GetPluginRegistered() {
		r.err = fmt.Errorf("the kubelet refused driver %s: %s", r.driver, s.GetError())
		log.Error(r.err, "Registration failed; the kubelet will try again")
	} else {
		log.Info("Registered with the kubelet", "driver", r.driver)
	}
	return &registerapi.RegistrationStatusResponse{}, nil
}

// Run serves the registration socket until ctx ends, and serves it anew whenever it vanishes.
func (r *Registrar) Run(ctx context.Context) error {
	for {
		again, err := r.serve(ctx)
		if err != nil {
			return fmt.Errorf("register %s in %s: %w", r.driver, r.dir, err)
		}
		if !again {
			return nil
		}
		klog.FromContext(ctx).Info("The registration socket vanished; making it anew", "socket", r.Socket())
	}
}

// serve serves the socket until ctx ends or, with again true, the socket vanishes.
func (r *Registrar) serve(ctx context.Context) (again bool, err error) {
	if err := os.MkdirAll(r.dir, 0o750); err != nil {
		return false, err
	}
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, watcher.Close()) }()
	if err := watcher.Add(r.dir); err != nil {
		return false, err
	}
	l, err := r.listen(r.Socket())
	if err != nil {
		return false, err
	}
	server := grpc.NewServer()
	registerapi.RegisterRegistrationServer(server, r)
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	again, err = r.watch(ctx, watcher, done)
	server.Stop()
	return again, err
}

// watch waits for ctx to end, the socket to vanish or the server to fail.
func (r *Registrar) watch(ctx context.Context, watcher *fsnotify.Watcher, done <-chan error) (again bool, err error) {
	// The socket may have vanished between its making and this: after a look, no event is missed, since the watch began
	// before the socket was made.
	if _, err := os.Lstat(r.Socket()); errors.Is(err, os.ErrNotExist) {
		return true, nil
	}
	for {
		select {
		case <-ctx.Done():
			return false, nil
		case err := <-done:
			return false, err
		case err := <-watcher.Errors:
			return false, err
		case <-watcher.Events:
			if _, err := os.Lstat(r.Socket()); errors.Is(err, os.ErrNotExist) {
				return true, nil
			}
		}
	}
}
