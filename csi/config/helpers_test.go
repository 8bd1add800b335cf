package config

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
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

// gate is a way to the API server that can be cut.
type gate struct {
	t        *testing.T
	listener net.Listener
	to       string
	wg       sync.WaitGroup

	mu    sync.Mutex
	shut  bool
	conns map[net.Conn]bool
}

func newGate(t *testing.T) *gate {
	t.Helper()
	to, err := url.Parse(env.Config.Host)
	must(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	g := &gate{t: t, listener: l, to: to.Host, conns: map[net.Conn]bool{}}
	g.wg.Go(g.serve)
	t.Cleanup(func() {
		must(t, l.Close())
		g.cut()
		g.wg.Wait()
	})
	return g
}

// config reaches the API server through the gate, with an administrator's credentials: a driver must not use them.
func (g *gate) config() *rest.Config {
	c := rest.CopyConfig(env.Config)
	c.Host = "https://" + g.listener.Addr().String()
	return c
}

func (g *gate) serve() {
	for {
		from, err := g.listener.Accept()
		if err != nil {
			return
		}
		to, err := net.Dial("tcp", g.to)
		g.mu.Lock()
		if err != nil || g.shut {
			_ = from.Close()
			if err == nil {
				_ = to.Close()
			}
			g.mu.Unlock()
			continue
		}
		g.conns[from], g.conns[to] = true, true
		g.mu.Unlock()
		for _, pair := range [][2]net.Conn{{from, to}, {to, from}} {
			g.wg.Go(func() {
				_, _ = io.Copy(pair[0], pair[1])
				g.mu.Lock()
				defer g.mu.Unlock()
				for _, c := range pair {
					_ = c.Close()
					delete(g.conns, c)
				}
			})
		}
	}
}

// cut ends all connections, and lets none in until open.
func (g *gate) cut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = true
	for c := range g.conns {
		_ = c.Close()
	}
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = false
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
	t.Cleanup(func() { must(t, unix.Unmount(w.stateDir(), unix.UMOUNT_NOFOLLOW)) })
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

// pod is a pod in the API and one volume of it.
type pod struct {
	w          *world
	name       string
	uid        string
	account    string
	id, target string
	group      string
	attributes map[string]string
}

func (w *world) pod(name, account string, attributes map[string]string) *pod {
	w.t.Helper()
	made, err := env.Client.CoreV1().Pods(w.ns).Create(w.t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{ServiceAccountName: account, Containers: []corev1.Container{{Name: "c", Image: "i"}},
			AutomountServiceAccountToken: new(false)},
	}, metav1.CreateOptions{})
	must(w.t, err)
	return &pod{w: w, name: name, uid: string(made.UID), account: account, id: "csi-" + string(made.UID), attributes: attributes,
		target: filepath.Join(w.dir, "pods", string(made.UID), "volumes/kubernetes.io~csi/conf/mount")}
}

// token is a new one of the pod's, that lives so many seconds.
func (p *pod) token(seconds int64) authenticationv1.TokenRequestStatus {
	p.w.t.Helper()
	t, err := env.Client.CoreV1().ServiceAccounts(p.w.ns).CreateToken(p.w.t.Context(), p.account, &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds, BoundObjectRef: &authenticationv1.BoundObjectReference{
			APIVersion: "v1", Kind: "Pod", Name: p.name, UID: types.UID(p.uid),
		}},
	}, metav1.CreateOptions{})
	must(p.w.t, err)
	return t.Status
}

func tokenSecret(t testing.TB, s authenticationv1.TokenRequestStatus) map[string]string {
	t.Helper()
	text, err := json.Marshal(map[string]authenticationv1.TokenRequestStatus{"": s})
	must(t, err)
	return map[string]string{tokensKey: string(text)}
}

func (p *pod) request(s authenticationv1.TokenRequestStatus) *csi.NodePublishVolumeRequest {
	context := map[string]string{
		kubeletPrefix + "pod.name": p.name, kubeletPrefix + "pod.namespace": p.w.ns, kubeletPrefix + "pod.uid": p.uid,
		kubeletPrefix + "serviceAccount.name": p.account, kubeletPrefix + "ephemeral": "true",
	}
	for k, v := range p.attributes {
		context[k] = v
	}
	return &csi.NodePublishVolumeRequest{
		VolumeId: p.id, TargetPath: p.target, VolumeContext: context, Secrets: tokenSecret(p.w.t, s),
		VolumeCapability: &csi.VolumeCapability{
			AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{VolumeMountGroup: p.group}},
			AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
		},
	}
}

func (p *pod) publish() error {
	p.w.t.Helper()
	_, err := p.w.driver.NodePublishVolume(p.w.t.Context(), p.request(p.token(3600)))
	return err
}

func (p *pod) unpublish() error {
	p.w.t.Helper()
	_, err := p.w.driver.NodeUnpublishVolume(p.w.t.Context(), &csi.NodeUnpublishVolumeRequest{VolumeId: p.id, TargetPath: p.target})
	return err
}

// shows waits until the file has that content.
func (p *pod) shows(file, want string) {
	p.w.t.Helper()
	eventually(p.w.t, fmt.Sprintf("%s of %s is %q", file, p.name, want), func() error {
		got, err := os.ReadFile(filepath.Join(p.target, file))
		if err == nil && string(got) != want {
			err = fmt.Errorf("it is %q", got)
		}
		return err
	})
}

// is fails unless the file has that content now.
func (p *pod) is(file, want string) {
	p.w.t.Helper()
	if got, err := os.ReadFile(filepath.Join(p.target, file)); err != nil || string(got) != want {
		p.w.t.Errorf("%s of %s is %q, %v; want %q", file, p.name, got, err, want)
	}
}

// gone fails unless nothing is left of the volume.
func (p *pod) gone() {
	p.w.t.Helper()
	if _, err := os.Lstat(p.target); !errors.Is(err, os.ErrNotExist) {
		p.w.t.Errorf("the target is left: %v", err)
	}
	if _, err := os.Lstat(filepath.Join(p.w.stateDir(), fileOf(p.id))); !errors.Is(err, os.ErrNotExist) {
		p.w.t.Errorf("the record is left: %v", err)
	}
	if d := p.w.driver; d != nil && d.lookup(p.id) != nil {
		p.w.t.Error("the volume is followed")
	}
}

// eventSays waits for an event that says each of the words.
func (w *world) eventSays(words ...string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), hurry)
	defer cancel()
	for {
		select {
		case e := <-w.events.Events:
			missing := false
			for _, word := range words {
				missing = missing || !strings.Contains(e, word)
			}
			if !missing {
				return
			}
			w.t.Logf("another event: %s", e)
		case <-ctx.Done():
			w.t.Fatalf("no event says %q", words)
		}
	}
}
