package apienv

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

const (
	loopback     = "127.0.0.1"
	pollInterval = 100 * time.Millisecond
	// portAttempts is how often a process is started again because something else took its port between the
	// moment it was found free and the moment the process bound it.
	portAttempts = 5
)

func (e *Env) startControlPlane(ctx context.Context, o *options) error {
	var etcdPort int
	err := e.startOnPort(ctx, "etcd", "/health", func(port int) ([]string, error) {
		etcdPort = port
		peer, err := freePort()
		if err != nil {
			return nil, err
		}
		client, peerURL := "https://"+address(port), "https://"+address(peer)
		return []string{
			"--name=apienv", "--data-dir=" + filepath.Join(e.Dir, "etcd"), "--unsafe-no-fsync",
			"--listen-client-urls=" + client, "--advertise-client-urls=" + client,
			"--listen-peer-urls=" + peerURL, "--initial-advertise-peer-urls=" + peerURL,
			"--initial-cluster=apienv=" + peerURL,
			"--cert-file=" + e.pki.path("server.crt"), "--key-file=" + e.pki.path("server.key"),
			"--client-cert-auth", "--trusted-ca-file=" + e.pki.path("ca.crt"),
			"--peer-cert-file=" + e.pki.path("server.crt"), "--peer-key-file=" + e.pki.path("server.key"),
			"--peer-client-cert-auth", "--peer-trusted-ca-file=" + e.pki.path("ca.crt"),
			"--log-level=warn",
		}, nil
	})
	if err != nil {
		return err
	}
	var apiPort int
	err = e.startOnPort(ctx, "kube-apiserver", "/readyz", func(port int) ([]string, error) {
		apiPort = port
		return append([]string{
			"--etcd-servers=https://" + address(etcdPort), "--etcd-cafile=" + e.pki.path("ca.crt"),
			"--etcd-certfile=" + e.pki.path("server.crt"), "--etcd-keyfile=" + e.pki.path("server.key"),
			"--bind-address=" + loopback, "--secure-port=" + strconv.Itoa(port),
			"--endpoint-reconciler-type=none", "--service-cluster-ip-range=10.0.0.0/24",
			"--client-ca-file=" + e.pki.path("ca.crt"), "--tls-cert-file=" + e.pki.path("server.crt"),
			"--tls-private-key-file=" + e.pki.path("server.key"), "--authorization-mode=Node,RBAC",
			"--service-account-issuer=https://kubernetes.default.svc",
			"--service-account-key-file=" + e.pki.path("sa.key"),
			"--service-account-signing-key-file=" + e.pki.path("sa.key"),
			"--allow-privileged",
		}, o.apiserverFlags...), nil
	})
	if err != nil {
		return err
	}
	e.Config = &rest.Config{Host: "https://" + address(apiPort)}
	if e.Config, err = e.User("orlop-admin", "system:masters"); err != nil {
		return err
	}
	if e.Client, err = kubernetes.NewForConfig(e.Config); err != nil {
		return fmt.Errorf("apienv: %w", err)
	}
	return nil
}

func (e *Env) startControllerManager(ctx context.Context, controllers []string) error {
	return e.startClient(ctx, "kube-controller-manager", "system:kube-controller-manager",
		"--controllers="+strings.Join(controllers, ","), "--use-service-account-credentials=false")
}

func (e *Env) startScheduler(ctx context.Context) error {
	return e.startClient(ctx, "kube-scheduler", "system:kube-scheduler")
}

// startClient starts a component that is a client of the API server. It runs as system:masters: the bootstrap role
// of kube-controller-manager alone does not cover its controllers when they share one identity.
func (e *Env) startClient(ctx context.Context, component, user string, flags ...string) error {
	config, err := e.User(user, "system:masters")
	if err != nil {
		return err
	}
	kubeconfig, err := e.Kubeconfig(config)
	if err != nil {
		return err
	}
	return e.startOnPort(ctx, component, "/healthz", func(port int) ([]string, error) {
		return append([]string{
			"--kubeconfig=" + kubeconfig, "--authentication-kubeconfig=" + kubeconfig,
			"--authorization-kubeconfig=" + kubeconfig, "--leader-elect=false",
			"--bind-address=" + loopback, "--secure-port=" + strconv.Itoa(port),
			"--tls-cert-file=" + e.pki.path("server.crt"), "--tls-private-key-file=" + e.pki.path("server.key"),
		}, flags...), nil
	})
}

// startOnPort starts a component on a free port and waits until it answers 200 on path, or says why it does not.
func (e *Env) startOnPort(
	ctx context.Context, component, path string, flags func(port int) ([]string, error),
) error {
	for attempt := 1; ; attempt++ {
		port, err := freePort()
		if err != nil {
			return err
		}
		args, err := flags(port)
		if err != nil {
			return err
		}
		p, err := startProcess(component, filepath.Join(e.Dir, component+".log"), e.orlop,
			append([]string{component}, args...)...)
		if err != nil {
			return fmt.Errorf("apienv: start %s: %w", component, err)
		}
		err = e.ready(ctx, p, "https://"+address(port)+path)
		if err == nil {
			e.procs = append(e.procs, p)
			return nil
		}
		tail := p.logTail()
		err = errors.Join(fmt.Errorf("apienv: %s did not become ready: %w; its last log lines:\n%s",
			component, err, tail), p.stop())
		if attempt == portAttempts || !strings.Contains(tail, "address already in use") {
			return err
		}
	}
}

// ready polls url, with the client certificate of an administrator, until it answers 200, the process exits or the
// context ends.
func (e *Env) ready(ctx context.Context, p *process, url string) error {
	pair, err := e.pki.client("orlop-admin", []string{"system:masters"})
	if err != nil {
		return err
	}
	cert, err := tls.X509KeyPair(pair.cert, pair.key)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(e.pki.caPEM)
	transport := &http.Transport{TLSClientConfig: &tls.Config{
		RootCAs: roots, Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12,
	}}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for last := errors.New("not asked yet"); ; {
		select {
		case <-p.done:
			return fmt.Errorf("it exited: %w", p.err)
		case <-ctx.Done():
			return fmt.Errorf("%w; last answer: %w", ctx.Err(), last)
		case <-tick.C:
		}
		if last = get(ctx, client, url); last == nil {
			return nil
		}
	}
}

func get(ctx context.Context, client *http.Client, url string) (err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", resp.Status, body)
	}
	return nil
}

func address(port int) string { return net.JoinHostPort(loopback, strconv.Itoa(port)) }

// freePort finds a loopback port that nothing listens on at this moment.
func freePort() (int, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(loopback, "0"))
	if err != nil {
		return 0, fmt.Errorf("apienv: find a free port: %w", err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	if err := l.Close(); err != nil {
		return 0, fmt.Errorf("apienv: find a free port: %w", err)
	}
	return port, nil
}
