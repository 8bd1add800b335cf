package source

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/orlop-io/orlop/configsync/payload"
)

// requests counts what is asked, of all and by the probe.
type requests struct {
	next          http.RoundTripper
	probes, other *atomic.Int32
}

func (r requests) RoundTrip(q *http.Request) (*http.Response, error) {
	if q.URL.Path == "/version" {
		r.probes.Add(1)
	} else {
		r.other.Add(1)
	}
	return r.next.RoundTrip(q)
}

// While no connection can be made, refused or swallowed, the watches of a node do not all try again and again: a probe
// looks for the API server, and when it is found all go on.
func TestManyWatchesAndNoConnection(t *testing.T) {
	const watches = 50
	for name, dial := range map[string]func(context.Context) error{
		"refused":   func(context.Context) error { return errors.New("refused") },
		"swallowed": func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
	} {
		t.Run(name, func(t *testing.T) {
			var served atomic.Int32
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
				if strings.HasPrefix(q.URL.Path, "/api/") {
					served.Add(1)
				}
				w.WriteHeader(http.StatusNotFound) // an answer is an answer
			}))
			defer server.Close()
			var up atomic.Bool
			var probes, other atomic.Int32
			client, err := kubernetes.NewForConfig(&rest.Config{Host: server.URL, QPS: -1,
				Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
					if !up.Load() {
						return nil, dial(ctx)
					}
					var d net.Dialer
					return d.DialContext(ctx, network, address)
				},
				WrapTransport: func(next http.RoundTripper) http.RoundTripper { return requests{next, &probes, &other} },
			})
			if err != nil {
				t.Fatal(err)
			}
			s := New(client)
			defer s.Close()
			for i := range watches {
				s.Acquire(Key{payload.ConfigMap, "ns", fmt.Sprint(i)}, func() {})
			}
			eventually(t, "the API server is looked for", func() bool { return probes.Load() > 12 })
			// Each tries to watch and then to list, and may do so once more before it sees that others failed.
			before := other.Load()
			if before > 4*watches {
				t.Errorf("%d requests of %d watches while there was no connection", before, watches)
			}
			eventually(t, "the API server is looked for", func() bool { return probes.Load() > 16 })
			if more := other.Load() - before; more != 0 {
				t.Errorf("%d more requests while there was no connection", more)
			}
			up.Store(true)
			eventually(t, "all go on", func() bool { return served.Load() >= watches })
		})
	}
}
