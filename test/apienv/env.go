package apienv

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// startTimeout bounds the start of each process. It is a limit for a machine under load, not an expectation.
const startTimeout = 2 * time.Minute

// Env is a running API server and what belongs to it. Its methods may be called from several goroutines.
type Env struct {
	// Config reaches the API server as a member of system:masters, without client-side throttling. Copy it
	// (rest.CopyConfig) before changing it.
	Config *rest.Config
	// Client is a clientset made from Config.
	Client kubernetes.Interface
	// Dir is the environment's temporary directory: certificates, etcd's data, and one log file a process.
	Dir string

	orlop string // the binary
	pki   *pki
	procs []*process
}

type options struct {
	apiserverFlags []string
	controllers    []string
	scheduler      bool
}

// Option chooses what an environment consists of.
type Option func(*options)

// WithAPIServerFlags appends flags to the API server's command line.
func WithAPIServerFlags(flags ...string) Option {
	return func(o *options) { o.apiserverFlags = append(o.apiserverFlags, flags...) }
}

// WithControllers also starts kube-controller-manager with exactly the named controllers (the names that
// `orlop kube-controller-manager --help` lists); several calls add up.
func WithControllers(names ...string) Option {
	return func(o *options) { o.controllers = append(o.controllers, names...) }
}

// WithProtectionControllers also starts the controllers that take the pv-protection and pvc-protection finalizers
// off again. The API server's admission always sets them, so without these controllers deleted claims and volumes
// stay forever.
func WithProtectionControllers() Option {
	return WithControllers("persistentvolume-protection-controller", "persistentvolumeclaim-protection-controller")
}

// WithScheduler also starts kube-scheduler.
func WithScheduler() Option {
	return func(o *options) { o.scheduler = true }
}

// Start starts an environment for one test and stops it at the test's end. It fails the test, naming the process
// and its last log lines, when something does not start.
func Start(t testing.TB, opts ...Option) *Env {
	t.Helper()
	e, err := start(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.stop(); err != nil {
			t.Errorf("apienv: stop: %v", err)
		}
	})
	return e
}

// Run starts an environment, sets *env, runs the package's tests, stops the environment and returns the exit code
// for os.Exit. It is for TestMain.
func Run(m *testing.M, env **Env, opts ...Option) int {
	e, err := start(opts)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	*env = e
	code := m.Run()
	if err := e.stop(); err != nil {
		fmt.Fprintf(os.Stderr, "apienv: stop: %v\n", err)
		return 1
	}
	return code
}

func start(opts []Option) (_ *Env, err error) {
	var o options
	for _, opt := range opts {
		opt(&o)
	}
	orlop, err := binary()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "orlop-apienv-")
	if err != nil {
		return nil, fmt.Errorf("apienv: %w", err)
	}
	e := &Env{Dir: dir, orlop: orlop}
	defer func() {
		if err != nil {
			err = errors.Join(err, e.stop())
		}
	}()
	if e.pki, err = newPKI(filepath.Join(dir, "pki")); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	if err := e.startControlPlane(ctx, &o); err != nil {
		return nil, err
	}
	if len(o.controllers) > 0 {
		if err := e.startControllerManager(ctx, o.controllers); err != nil {
			return nil, err
		}
	}
	if o.scheduler {
		if err := e.startScheduler(ctx); err != nil {
			return nil, err
		}
	}
	return e, nil
}

// stop ends every process, last started first, and removes the directory.
func (e *Env) stop() error {
	var errs []error
	for i := len(e.procs) - 1; i >= 0; i-- {
		errs = append(errs, e.procs[i].stop())
	}
	e.procs = nil
	errs = append(errs, os.RemoveAll(e.Dir))
	return errors.Join(errs...)
}

// User returns a configuration that authenticates as name, in groups, by a client certificate of the environment's
// own CA. The identity may do only what RBAC grants it.
func (e *Env) User(name string, groups ...string) (*rest.Config, error) {
	pair, err := e.pki.client(name, groups)
	if err != nil {
		return nil, err
	}
	return &rest.Config{
		Host:            e.Config.Host,
		QPS:             -1,
		WarningHandler:  rest.NoWarnings{}, // tests use deprecated fields on purpose
		TLSClientConfig: rest.TLSClientConfig{CAData: e.pki.caPEM, CertData: pair.cert, KeyData: pair.key},
	}, nil
}

// Kubeconfig writes a kubeconfig file for a configuration (Env.Config or one of Env.User) and returns its path. It
// lives as long as the environment.
func (e *Env) Kubeconfig(c *rest.Config) (string, error) {
	const name = "apienv"
	out := clientcmdapi.NewConfig()
	out.Clusters[name] = &clientcmdapi.Cluster{Server: c.Host, CertificateAuthorityData: c.CAData}
	out.AuthInfos[name] = &clientcmdapi.AuthInfo{
		ClientCertificateData: c.CertData, ClientKeyData: c.KeyData, Token: c.BearerToken,
	}
	out.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name}
	out.CurrentContext = name
	f, err := os.CreateTemp(e.Dir, "kubeconfig-")
	if err != nil {
		return "", fmt.Errorf("apienv: %w", err)
	}
	if err := f.Close(); err != nil {
		return "", fmt.Errorf("apienv: %w", err)
	}
	if err := clientcmd.WriteToFile(*out, f.Name()); err != nil {
		return "", fmt.Errorf("apienv: write %s: %w", f.Name(), err)
	}
	return f.Name(), nil
}

// Kubectl runs `orlop kubectl` as an administrator and returns what it printed. Prefer Apply, which needs no process.
func (e *Env) Kubectl(ctx context.Context, args ...string) (string, error) {
	// The command takes the kubeconfig from a cluster's data directory, which Dir resembles this far.
	kubeconfig := filepath.Join(e.Dir, "kubeconfig")
	if _, err := os.Stat(kubeconfig); err != nil {
		made, err := e.Kubeconfig(e.Config)
		if err != nil {
			return "", err
		}
		if err := os.Rename(made, kubeconfig); err != nil {
			return "", fmt.Errorf("apienv: %w", err)
		}
	}
	cmd := exec.CommandContext(ctx, e.orlop, append([]string{"kubectl", "--data-dir", e.Dir}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("apienv: kubectl %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// Namespace makes a namespace with a generated name and the default service account that pod admission asks for
// (no controller makes it here), and returns its name. It is not deleted: it ends with the environment.
func (e *Env) Namespace(t testing.TB) string {
	t.Helper()
	ctx := t.Context()
	ns, err := e.Client.CoreV1().Namespaces().Create(ctx,
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatalf("apienv: create namespace: %v", err)
	}
	_, err = e.Client.CoreV1().ServiceAccounts(ns.Name).Create(ctx,
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatalf("apienv: create service account %s/default: %v", ns.Name, err)
	}
	return ns.Name
}

// binary finds bin/orlop in the module that the working directory belongs to.
func binary() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("apienv: %w", err)
	}
	for d := dir; ; d = filepath.Dir(d) {
		if _, err := os.Stat(filepath.Join(d, "go.mod")); err == nil {
			path := filepath.Join(d, "bin", "orlop")
			if _, err := os.Stat(path); err != nil {
				return "", fmt.Errorf("apienv: %s is missing: run `make build` first (%w)", path, err)
			}
			return path, nil
		}
		if d == filepath.Dir(d) {
			return "", fmt.Errorf("apienv: no go.mod above %s: run the tests from inside the module", dir)
		}
	}
}
