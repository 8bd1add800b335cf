package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"

	"github.com/orlop-io/orlop/csi/host"
)

// httpGrace is how long requests under way may take when the program ends.
const httpGrace = 2 * time.Second

// serveHTTP serves /readyz and /metrics on a Unix socket and on a TCP address, each unless it is empty, until ctx ends.
// ready says what is not ready, nil when all is.
func serveHTTP(
	ctx context.Context, h *host.Host, socket, address string, metrics prometheus.Gatherer, ready func() error,
) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		// A client that is gone does not want the answer any more.
		_, _ = fmt.Fprintln(w, "ok")
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
	group, ctx := errgroup.WithContext(ctx)
	if socket != "" {
		group.Go(func() error {
			listener, err := h.ListenUnix(socket)
			if err != nil {
				return fmt.Errorf("--http-socket: %w", err)
			}
			return serveListener(ctx, listener, mux)
		})
	}
	if address != "" {
		group.Go(func() error {
			listener, err := net.Listen("tcp", address)
			if err != nil {
				return fmt.Errorf("--http-address: %w", err)
			}
			return serveListener(ctx, listener, mux)
		})
	}
	return group.Wait()
}

// serveListener serves until ctx ends, and closes the listener.
func serveListener(ctx context.Context, listener net.Listener, handler http.Handler) error {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second}
	stopped := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), httpGrace)
		defer cancel()
		stopped <- server.Shutdown(grace)
	})
	err := server.Serve(listener)
	if stop() {
		return fmt.Errorf("serve HTTP at %s: %w", listener.Addr(), err)
	}
	if err := <-stopped; err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}
