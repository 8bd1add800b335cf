package config

import (
	"context"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	eventrecord "k8s.io/client-go/tools/record"

	"github.com/orlop-io/orlop/configsync/action"
	"github.com/orlop-io/orlop/csi/host"
	"github.com/orlop-io/orlop/test/apienv"
	"github.com/orlop-io/orlop/test/leak"
)

// env is the API server of this package's tests.
var env *apienv.Env

const (
	hurry    = time.Minute // for what must happen, however busy the machine is
	account1 = "app"
)

func TestMain(m *testing.M) {
	if socket := os.Getenv(socketVar); socket != "" {
		os.Exit(serveForTest(socket))
	}
	flag.Parse()
	if flag.Lookup("test.fuzz").Value.String() != "" {
		os.Exit(m.Run()) // the parser needs no API server, and each worker would start one
	}
	os.Exit(apienv.Run(m, &env))
}

func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func eventually(t testing.TB, what string, check func() error) {
	t.Helper()
	var last error
	err := wait.PollUntilContextTimeout(t.Context(), 5*time.Millisecond, hurry, true, func(context.Context) (bool, error) {
		last = check()
		return last == nil, nil
	})
	if err != nil {
		t.Fatalf("waiting until %s: %v: %v", what, err, last)
	}
}

// world is a namespace with a ServiceAccount, a node's directory and a driver.
type world struct {
	t      *testing.T
	ns     string
	dir    string
	gate   *gate
	driver *Driver
	events *eventrecord.FakeRecorder
	fault  host.Fault
	// actions acts on changes for the next driver that is started; nil for none.
	actions *action.Runner
}

func newWorld(t *testing.T) *world {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts volumes")
	}
	leak.Check(t)
	w := &world{t: t, ns: env.Namespace(t), dir: t.TempDir(), events: eventrecord.NewFakeRecorder(1000)}
	t.Cleanup(func() {
		// A driver that ended without volumes has done it.
		if err := unix.Unmount(w.stateDir(), unix.UMOUNT_NOFOLLOW); !errors.Is(err, unix.EINVAL) {
			must(t, err)
		}
	})
	w.gate = newGate(t)
	w.serviceAccount(w.ns, account1)
	w.start()
	t.Cleanup(w.stop)
	return w
}

func (w *world) stateDir() string { return filepath.Join(w.dir, "run", "state") }

func (w *world) start() {
	w.t.Helper()
	d, err := Open(w.t.Context(), Config{Version: "test", NodeID: "n1", API: w.gate.config(), StateDir: w.stateDir(),
		Host: host.New(func(l host.Label) error {
			if w.fault != nil {
				return w.fault(l)
			}
			return nil
		}), Recorder: w.events, Actions: w.actions})
	must(w.t, err)
	d.patience = time.Second
	w.driver = d
}

func (w *world) stop() {
	w.t.Helper()
	if w.driver != nil {
		must(w.t, w.driver.Close())
		w.driver = nil
	}
}

func (w *world) serviceAccount(ns, name string) {
	w.t.Helper()
	_, err := env.Client.CoreV1().ServiceAccounts(ns).Create(w.t.Context(),
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	must(w.t, err)
}

// grant lets the ServiceAccount of the world's namespace read all ConfigMaps and Secrets of ns.
func (w *world) grant(ns, account string) {
	w.t.Helper()
	_, err := env.Client.RbacV1().Roles(ns).Create(w.t.Context(), &rbacv1.Role{
		ObjectMeta: metav1.ObjectMeta{Name: "r-" + account},
		Rules: []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"configmaps", "secrets"},
			Verbs: []string{"get", "list", "watch"}}},
	}, metav1.CreateOptions{})
	must(w.t, err)
	_, err = env.Client.RbacV1().RoleBindings(ns).Create(w.t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "r-" + account},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "r-" + account},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: w.ns, Name: account}},
	}, metav1.CreateOptions{})
	must(w.t, err)
}

func (w *world) revoke(ns, account string) {
	w.t.Helper()
	must(w.t, env.Client.RbacV1().Roles(ns).Delete(w.t.Context(), "r-"+account, metav1.DeleteOptions{}))
}

// set makes the ConfigMap or Secret have this value of its key k.
func (w *world) set(kind, ns, name, value string) {
	w.t.Helper()
	var err error
	if kind == "Secret" {
		o := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string][]byte{"k": []byte(value)}}
		if _, err = env.Client.CoreV1().Secrets(ns).Update(w.t.Context(), o, metav1.UpdateOptions{}); err != nil {
			_, err = env.Client.CoreV1().Secrets(ns).Create(w.t.Context(), o, metav1.CreateOptions{})
		}
	} else {
		o := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"k": value}}
		if _, err = env.Client.CoreV1().ConfigMaps(ns).Update(w.t.Context(), o, metav1.UpdateOptions{}); err != nil {
			_, err = env.Client.CoreV1().ConfigMaps(ns).Create(w.t.Context(), o, metav1.CreateOptions{})
		}
	}
	must(w.t, err)
}
