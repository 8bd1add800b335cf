package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

// prober asks the components whether they serve, from where they can be reached: a connection to a node's
// loopback is opened by a thread inside the node's network namespace.
type prober struct {
	enter  func(func() error) error // runs a function in the node's network namespace
	client *http.Client
}

func newProber(enter func(func() error) error, c *credentials) (*prober, error) {
	cert, err := tls.LoadX509KeyPair(c.admin, c.adminKey)
	if err != nil {
		return nil, err
	}
	etcdCert, err := tls.LoadX509KeyPair(c.etcdClient, c.etcdClientKey)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	for _, f := range []string{c.clusterCA, c.etcdCA} {
		pem, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		roots.AppendCertsFromPEM(pem)
	}
	p := &prober{enter: enter}
	p.client = &http.Client{Transport: &http.Transport{
		DialContext: p.dial,
		// A probe is rare and short: a kept connection would outlive what it asked about.
		DisableKeepAlives: true,
		TLSClientConfig: &tls.Config{
			RootCAs: roots,
			// The server names the authorities it accepts: etcd has its own.
			GetClientCertificate: func(r *tls.CertificateRequestInfo) (*tls.Certificate, error) {
				for _, c := range []*tls.Certificate{&cert, &etcdCert} {
					if r.SupportsCertificate(c) == nil {
						return c, nil
					}
				}
				return &tls.Certificate{}, nil
			},
		},
	}}
	return p, nil
}

func (p *prober) dial(ctx context.Context, network, addr string) (conn net.Conn, err error) {
	dialer := &net.Dialer{Timeout: time.Second}
	err = p.enter(func() error {
		// The socket must be made on this thread: a literal address needs no resolver, and a dialer with one
		// address starts no goroutine.
		conn, err = dialer.DialContext(ctx, network, addr)
		return err
	})
	return conn, err
}

// http returns a readiness check that GETs url and wants 200.
func (p *prober) http(url string) func(context.Context) error {
	return func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		resp, err := p.client.Do(req)
		if err != nil {
			return err
		}
		body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
		if err = errors.Join(err, resp.Body.Close()); err != nil {
			return err
		}
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %s", resp.Status, firstFailure(string(body)))
		}
		return nil
	}
}

// firstFailure picks the failing check out of a component's verbose health answer ("[-]name failed: ...").
func firstFailure(body string) string {
	for line := range strings.Lines(body) {
		if strings.HasPrefix(line, "[-]") {
			return strings.TrimSpace(line)
		}
	}
	first, _, _ := strings.Cut(body, "\n")
	return first
}

// unixHTTP returns a readiness check that GETs path from the Unix socket and wants 200.
func unixHTTP(socket, path string) func(context.Context) error {
	p := &prober{client: &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}}}
	return p.http("http://orlop" + path)
}
