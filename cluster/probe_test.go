package cluster

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// serveTLS is a component that wants a client's certificate of the authority in caFile.
func serveTLS(t *testing.T, certFile, keyFile, caFile string, handler http.HandlerFunc) string {
	t.Helper()
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	ca, err := os.ReadFile(caFile)
	if err != nil {
		t.Fatal(err)
	}
	pool.AppendCertsFromPEM(ca)
	s := httptest.NewUnstartedServer(handler)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.URL
}

func TestProbeAuthenticatesAtBothAuthorities(t *testing.T) {
	c := newCluster(t)
	var user string
	note := func(_ http.ResponseWriter, r *http.Request) { user = r.TLS.PeerCertificates[0].Subject.CommonName }
	api := serveTLS(t, c.creds.apiServer, c.creds.apiServerKey, c.creds.clusterCA, note)
	if err := c.probe.http(api + "/readyz")(t.Context()); err != nil || user != userAdmin {
		t.Errorf("API server: %q, %v", user, err)
	}
	etcd := serveTLS(t, c.creds.etcdServer, c.creds.etcdServerKey, c.creds.etcdCA, note)
	if err := c.probe.http(etcd + "/readyz")(t.Context()); err != nil || user != "kube-apiserver" {
		t.Errorf("etcd: %q, %v", user, err)
	}
}

func TestProbeSaysWhatIsMissing(t *testing.T) {
	c := newCluster(t)
	url := serveTLS(t, c.creds.apiServer, c.creds.apiServerKey, c.creds.clusterCA, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusInternalServerError)
		if _, err := w.Write([]byte("[+]ping ok\n[-]etcd failed: reason withheld\nreadyz check failed\n")); err != nil {
			t.Error(err)
		}
	})
	err := c.probe.http(url)(t.Context())
	if err == nil || err.Error() != "500 Internal Server Error: [-]etcd failed: reason withheld" {
		t.Errorf("got %v", err)
	}
	if got := firstFailure("starting\nmore"); got != "starting" {
		t.Errorf("got %q", got)
	}
}

func TestProbeRefusesAForeignServer(t *testing.T) {
	c, other := newCluster(t), newCluster(t)
	url := serveTLS(t, other.creds.apiServer, other.creds.apiServerKey, c.creds.clusterCA, func(http.ResponseWriter, *http.Request) {
		t.Error("the probe spoke with a server of another authority")
	})
	if err := c.probe.http(url)(t.Context()); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("got %v", err)
	}
}

func TestProbeOfAUnixSocket(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	ready := unixHTTP(socket, "/readyz")
	if err := ready(t.Context()); err == nil {
		t.Error("ready before there is a socket")
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/readyz" {
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	if err := s.Listener.Close(); err != nil {
		t.Fatal(err)
	}
	s.Listener = listener
	s.Start()
	defer s.Close()
	if err := ready(t.Context()); err != nil {
		t.Error(err)
	}
}
