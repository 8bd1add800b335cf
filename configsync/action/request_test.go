package action

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// program is a pod's HTTP server, which notes what it was asked.
type program struct {
	mu    sync.Mutex
	asked []string
}

func (p *program) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.asked = append(p.asked, r.Method+" "+r.URL.RequestURI())
	p.mu.Unlock()
	switch r.URL.Path {
	case "/ok":
		w.WriteHeader(http.StatusNoContent)
	case "/endless":
		for r.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 4096)); err != nil {
				return
			}
		}
	case "/moved":
		http.Redirect(w, r, "/ok", http.StatusFound)
	case "/hangs":
		<-r.Context().Done()
	default:
		http.Error(w, "secret-of-the-program", http.StatusInternalServerError)
	}
}

func (p *program) was(t *testing.T, want string) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if got := strings.Join(p.asked, ", "); got != want {
		t.Errorf("it was asked %q, want %q", got, want)
	}
	p.asked = nil
}

func hostPort(t *testing.T, s *httptest.Server) (string, string) {
	t.Helper()
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	host, port, err := net.SplitHostPort(u.Host)
	if err != nil {
		t.Fatal(err)
	}
	return host, port
}

func TestRequest(t *testing.T) {
	p := &program{}
	for scheme, server := range map[string]*httptest.Server{"http": httptest.NewServer(p), "https": httptest.NewTLSServer(p)} {
		t.Run(scheme, func(t *testing.T) {
			t.Cleanup(server.Close)
			host, port := hostPort(t, server)
			do := func(method, path string) error { return newClient().do(t.Context(), scheme, host, port, method, path) }
			if err := do("POST", "/ok?a=b%20c"); err != nil {
				t.Error(err)
			}
			p.was(t, "POST /ok?a=b%20c")
			if err := do("GET", "/endless"); err != nil {
				t.Errorf("an answer without an end: %v", err)
			}
			p.was(t, "GET /endless")
			if err := do("GET", "/moved"); err == nil || err.Error() != "HTTP status 302" {
				t.Errorf("a redirect: %v", err)
			}
			p.was(t, "GET /moved")
			if err := do("PUT", "/broken"); err == nil || err.Error() != "HTTP status 500" {
				t.Errorf("a failure: %v", err)
			}
			p.was(t, "PUT /broken")
			// A deadline that has passed already waits for nothing.
			ctx, cancel := context.WithTimeout(t.Context(), 0)
			defer cancel()
			err := newClient().do(ctx, scheme, host, port, "GET", "/hangs?token=x")
			if !errors.Is(err, context.DeadlineExceeded) || strings.Contains(err.Error(), "token") {
				t.Errorf("a timeout: %v", err)
			}
		})
	}
}

// A proxy of the node's environment gets nothing to see.
func TestRequestKnowsNoProxy(t *testing.T) {
	transport, ok := newClient().http.Transport.(*http.Transport)
	if !ok || transport.Proxy != nil {
		t.Errorf("the transport is %+v", transport)
	}
}

func TestPortOf(t *testing.T) {
	ports := []corev1.ContainerPort{{Name: "dns", ContainerPort: 53, Protocol: corev1.ProtocolUDP}, {Name: "admin", ContainerPort: 81, Protocol: corev1.ProtocolTCP},
		{Name: "plain", ContainerPort: 82}}
	for port, want := range map[string]string{"8080": "8080", "admin": "81", "plain": "82", "dns": "", "none": ""} {
		got, err := portOf(port, ports)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, %v; want %q", port, got, err, want)
		}
	}
}

// The whole way of a request to a pod in the node's network, by the port's name.
func TestRequestToHostNetwork(t *testing.T) {
	p := &program{}
	server := httptest.NewServer(p)
	defer server.Close()
	host, port := hostPort(t, server)
	var number int32
	if _, err := fmt.Sscan(port, &number); err != nil {
		t.Fatal(err)
	}
	f := newFake()
	f.containers = f.containers[:1]
	f.containers[0].Ports = []corev1.ContainerPort{{Name: "admin", ContainerPort: number}}
	for name, ip := range map[string]string{"known": host, "not known": ""} {
		t.Run(name, func(t *testing.T) {
			r := NewRunner(Options{Runtime: f, HostIP: ip})
			defer r.Close()
			spec, err := Parse(map[string]string{onChange: "http=POST :admin/ok", Annotations.Debounce: "10ms"})
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan struct{})
			r.Changed(Change{Pod: pod, Volume: volumeOf("v"), Spec: spec, Done: func() { close(done) }})
			select {
			case <-done:
			case <-time.After(time.Minute):
				t.Fatal("the change is not done")
			}
			if ip == "" {
				p.was(t, "")
			} else {
				p.was(t, "POST /ok")
			}
		})
	}
}
