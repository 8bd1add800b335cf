package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/orlop-io/orlop/csi/host"
)

// httpGrace is how long requests under way may take when the program ends.
const httpGrace = 2 * time.Second

// serveHTTP serves /readyz and /metrics on a Unix socket until ctx ends. ready says what is not ready, nil when all is.
func serveHTTP(
	ctx context.Context, h *host.Host, socket string, metrics prometheus.Gatherer, ready func() error,
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
	listener, err := h.ListenUnix(socket)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	stopped := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), httpGrace)
		defer cancel()
		stopped <- server.Shutdown(grace)
	})
	err = server.Serve(listener)
	if stop() {
		return fmt.Errorf("serve HTTP at %s: %w", socket, err)
	}
	if err := <-stopped; err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}
