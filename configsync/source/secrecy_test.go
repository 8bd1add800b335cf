package source

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

	"github.com/orlop-io/orlop/configsync/payload"
)

// buffer is a bytes.Buffer that several goroutines may use.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// An answer that holds a Secret and cannot be understood, or breaks off, is an error that does not say what was in it;
// nor does the log at the verbosity that a node runs with.
func TestBrokenAnswersAreNotShown(t *testing.T) {
	const marker = "orlop-marker-7b1e"
	secret := `{"kind":"Secret","apiVersion":"v1","metadata":{"name":"s","namespace":"ns","resourceVersion":"1"},"data":`
	for name, body := range map[string]string{
		"no JSON":           marker,
		"of another type":   `{"kind":"SecretList","apiVersion":"v1","items":[` + secret + `"` + marker + `"}]}`,
		"not base64":        `{"kind":"SecretList","apiVersion":"v1","items":[` + secret + `{"k":"` + marker + `!"}}]}`,
		"another kind":      `{"kind":"` + marker[:5] + `","apiVersion":"v1","data":{"k":"` + marker + `"}}`,
		"broken off":        `{"kind":"SecretList","apiVersion":"v1","items":[` + secret + `{"k":"` + marker,
		"event":             `{"type":"ADDED","object":` + secret + `{"k":"` + marker + `!"}}}`,
		"event, broken off": `{"type":"ADDED","object":` + secret + `{"k":"` + marker,
		"event, other type": `{"type":"ADDED","object":"` + marker + `"}`,
	} {
		t.Run(name, func(t *testing.T) {
			var logged buffer
			klog.LogToStderr(false)
			defer klog.LogToStderr(true)
			klog.SetOutput(&logged)
			asked := make(chan struct{}, 100)
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
				if strings.HasPrefix(name, "event") && q.URL.Query().Get("watch") == "" {
					w.WriteHeader(http.StatusInternalServerError)
					return
				}
				w.Header().Set("Content-Type", "application/json")
				_, _ = w.Write([]byte(body)) // the client may be gone
				select {
				case asked <- struct{}{}:
				default:
				}
			}))
			defer server.Close()
			client, err := kubernetes.NewForConfig(&rest.Config{Host: server.URL, QPS: -1})
			if err != nil {
				t.Fatal(err)
			}
			s := New(client)
			defer s.Close()
			r := s.Acquire(Key{payload.Secret, "ns", "s"}, func() {})
			for range 4 {
				<-asked
			}
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			_, err = r.Get(ctx)
			if err == nil {
				t.Error("what the API server says is understood")
			}
			klog.Flush()
			if !strings.Contains(logged.String(), "Failed to watch") {
				t.Errorf("nothing was logged: %q", logged.String())
			}
			if text := fmt.Sprintf("%v|%+v|%#v|%q", err, err, err, err); strings.Contains(text, marker) {
				t.Errorf("the error holds content: %s", text)
			}
			if strings.Contains(logged.String(), marker) {
				t.Errorf("the log holds content: %s", logged.String())
			}
		})
	}
}
