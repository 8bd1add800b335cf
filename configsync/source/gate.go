package source

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptrace"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

const (
	// connectPatience is how long a request waits for a connection to the API server.
	connectPatience = time.Second
	// probeInterval is between two probes of an API server that cannot be reached, and probePatience how long each waits,
	// for a server that is slow rather than gone.
	probeInterval = 250 * time.Millisecond
	probePatience = 5 * time.Second
)

// gate keeps requests back while no connection to the API server can be made. Then a few probes a second look for it, so
// that the watches of a whole node do not each dial all the time, and do not each sit in the handshake of a connection
// that is lost when the network is back: they all go on when a probe is answered, on the connection that it made.
type gate struct {
	client kubernetes.Interface
	// run runs a goroutine that ends with the context.
	run func(func(context.Context))

	mu   sync.Mutex
	shut chan struct{} // closed when the API server is reached again; nil while it is
}

// do makes a request through the gate: call does it, with a context that ends where no connection is made in time.
// The context's resources are given up by end, once the answer has been read.
func (g *gate) do(ctx context.Context, call func(context.Context) error) (end context.CancelFunc, err error) {
	g.mu.Lock()
	shut := g.shut
	g.mu.Unlock()
	if shut != nil {
		select {
		case <-shut:
		case <-ctx.Done():
			return func() {}, ctx.Err()
		}
	}
	inner, cancel := context.WithCancelCause(ctx)
	end = func() { cancel(nil) }
	timer := time.AfterFunc(connectPatience, func() { cancel(errNoConnection) })
	defer timer.Stop()
	trace := &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { timer.Stop() }}
	err = call(httptrace.WithClientTrace(inner, trace))
	if err == nil {
		return end, nil
	}
	if errors.Is(context.Cause(inner), errNoConnection) {
		err = fmt.Errorf("%w: %w", errNoConnection, err)
	}
	end()
	if ctx.Err() == nil && !gotAnswer(err) {
		g.close()
	}
	return end, err
}

var errNoConnection = fmt.Errorf("no connection to the API server within %v", connectPatience)

// gotAnswer reports whether there was an answer, be it a refusal.
func gotAnswer(err error) bool {
	var status apierrors.APIStatus
	return err == nil || errors.As(err, &status)
}

// close shuts the gate and has the API server looked for.
func (g *gate) close() {
	api := g.client.Discovery().RESTClient()
	// A fake client has none, and is always reached.
	if c, ok := api.(*rest.RESTClient); !ok || c == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut != nil {
		return
	}
	shut := make(chan struct{})
	g.shut = shut
	g.run(func(ctx context.Context) {
		look(ctx, api)
		g.mu.Lock()
		g.shut = nil
		g.mu.Unlock()
		close(shut)
	})
}

// look returns when the API server answers, or the context ends. A probe that hangs does not keep the next from being
// sent: what a network lost while it was down does not come back with it.
func look(ctx context.Context, api rest.Interface) {
	var probes sync.WaitGroup
	defer probes.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	reached := make(chan struct{}, 1)
	tick := time.NewTicker(probeInterval)
	defer tick.Stop()
	for {
		probes.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, probePatience)
			defer cancel()
			if !gotAnswer(api.Get().AbsPath("/version").Do(ctx).Error()) {
				return
			}
			select {
			case reached <- struct{}{}:
			default:
			}
		})
		select {
		case <-ctx.Done():
			return
		case <-reached:
			return
		case <-tick.C:
		}
	}
}

// endedWatch is a watch that gives the resources of its context up when it is stopped.
type endedWatch struct {
	watch.Interface

	end context.CancelFunc
}

// Stop ends the watch.
func (w *endedWatch) Stop() {
	w.Interface.Stop()
	w.end()
}
