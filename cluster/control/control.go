// Package control is how the command line talks to a running cluster: HTTP on a Unix socket in the data directory.
//
//	GET  /v1/status?after=N   the status, once its version is greater than N
//	POST /v1/stop             begins the stop; the status says how it goes, and the socket's end that it is done
//
// The socket is root's alone; who can open it can read the administrator's key as well.
package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/orlop-io/orlop/cluster"
)

// pollTimeout bounds one long poll.
const pollTimeout = 10 * time.Second

// Source is the cluster that a server answers for.
type Source interface {
	Status() cluster.Status
	Wait(ctx context.Context, after uint64)
}

// Listen binds the socket, mode 0600. One left by a killed predecessor is replaced: the caller holds the data directory's
// lock.
func Listen(ctx context.Context, socket string) (net.Listener, error) {
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(socket, 0o600); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return listener, nil
}

// Serve answers on the listener until ctx ends, and closes it.
func Serve(ctx context.Context, listener net.Listener, source Source, stop func()) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, r *http.Request) {
		if after, err := strconv.ParseUint(r.URL.Query().Get("after"), 10, 64); err == nil {
			wait, cancel := context.WithTimeout(r.Context(), pollTimeout)
			source.Wait(wait, after)
			cancel()
		}
		w.Header().Set("Content-Type", "application/json")
		// An error here is the client's having left.
		_ = json.NewEncoder(w).Encode(source.Status())
	})
	mux.HandleFunc("POST /v1/stop", func(w http.ResponseWriter, _ *http.Request) {
		stop()
		w.WriteHeader(http.StatusAccepted)
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	err := server.Close()
	if serr := <-served; !errors.Is(serr, http.ErrServerClosed) {
		err = errors.Join(err, serr)
	}
	return err
}

// ErrNotRunning says that nothing listens on the socket, or that what did has ended.
var ErrNotRunning = errors.New("the cluster is not running")

// Client speaks to a running cluster.
type Client struct{ http http.Client }

// NewClient makes a client; it does not connect yet.
func NewClient(socket string) *Client {
	return &Client{http: http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
		// A supervisor that is stopped (SIGSTOP) still has its connections taken by the kernel.
		ResponseHeaderTimeout: 2 * pollTimeout,
	}}}
}

// Close drops kept connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Status asks for the status at once, or for the first one newer than after. ErrNotRunning when nobody answers.
func (c *Client) Status(ctx context.Context, after *uint64) (*cluster.Status, error) {
	url := "http://orlop/v1/status"
	if after != nil {
		url += "?after=" + strconv.FormatUint(*after, 10)
	}
	resp, err := c.do(ctx, http.MethodGet, url)
	if err != nil {
		return nil, err
	}
	var s cluster.Status
	if resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("status: %s", resp.Status)
	} else if err = json.NewDecoder(resp.Body).Decode(&s); err != nil {
		err = notRunning(ctx, err)
	}
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return nil, err
	}
	return &s, nil
}

// Stop asks the cluster to stop and returns without waiting for it.
func (c *Client) Stop(ctx context.Context) error {
	resp, err := c.do(ctx, http.MethodPost, "http://orlop/v1/stop")
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusAccepted {
		err = fmt.Errorf("stop: %s", resp.Status)
	}
	return errors.Join(err, resp.Body.Close())
}

func (c *Client) do(ctx context.Context, method, url string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, notRunning(ctx, err)
	}
	return resp, nil
}

// notRunning makes ErrNotRunning of the errors that mean it: no socket, a path too long for one (EINVAL), nobody behind
// it, or a peer that went away in the middle. Others (no permission, no answer) say nothing of whether the cluster runs.
func notRunning(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return err
	}
	for _, gone := range []error{fs.ErrNotExist, syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.EPIPE, syscall.ENOTDIR,
		syscall.EINVAL, io.EOF, io.ErrUnexpectedEOF} {
		if errors.Is(err, gone) {
			return fmt.Errorf("%w (%w)", ErrNotRunning, err)
		}
	}
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("asking the cluster needs root: run it with sudo (%w)", err)
	}
	return fmt.Errorf("the cluster's supervisor does not answer: %w", err)
}
