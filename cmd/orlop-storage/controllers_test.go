package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/orlop-io/orlop/test/apienv"
)

// running is a Controllers that runs in the background.
type running struct {
	t      *testing.T
	socket string
	cancel context.CancelFunc
	done   chan error
}

// startControllers runs the command as a script would, under the identity that the deployment gives it.
func startControllers(t *testing.T, kubeconfig, name string, flags ...string) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{t: t, socket: filepath.Join(t.TempDir(), name), cancel: cancel, done: make(chan error, 1)}
	cmd := newControllersCommand()
	cmd.SetArgs(append([]string{"--kubeconfig", kubeconfig, "--http-socket", r.socket}, flags...))
	go func() { r.done <- cmd.ExecuteContext(ctx) }()
	t.Cleanup(func() {
		if r.cancel != nil {
			r.stop()
		}
	})
	return r
}

func (r *running) stop() {
	r.t.Helper()
	r.cancel()
	r.cancel = nil
	if err := <-r.done; err != nil {
		r.t.Error(err)
	}
}

// get asks the HTTP socket. A socket that is not there yet is status 0.
func (r *running) get(path string) (status int, body string) {
	r.t.Helper()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", r.socket)
	}}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Get("http://controllers" + path)
	if err != nil {
		return 0, err.Error()
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil {
		r.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	err := wait.PollUntilContextTimeout(t.Context(), 50*time.Millisecond, time.Minute, true,
		func(context.Context) (bool, error) { return ok(), nil })
	if err != nil {
		t.Fatalf("waiting until %s: %v", what, err)
	}
}

// TestControllersTakeTurns runs two replicas: one works, the other one takes over as soon as the first has stopped.
func TestControllersTakeTurns(t *testing.T) {
	env := apienv.Start(t)
	if err := env.Apply(t.Context(), controllersManifests("leader", "rollouts", "versions", "volumes")...); err != nil {
		t.Fatal(err)
	}
	user, err := env.User("orlop:storage-controllers")
	if err != nil {
		t.Fatal(err)
	}
	kubeconfig, err := env.Kubeconfig(user)
	if err != nil {
		t.Fatal(err)
	}
	first := startControllers(t, kubeconfig, "first")
	eventually(t, "the first is ready", func() bool { status, _ := first.get("/readyz"); return status == http.StatusOK })
	holder := ""
	eventually(t, "the first holds the lease", func() bool { holder = leaseHolder(t, env); return holder != "" })
	bindOne(t, env, "one")

	second := startControllers(t, kubeconfig, "second")
	eventually(t, "the second is ready", func() bool { status, _ := second.get("/readyz"); return status == http.StatusOK })
	if got := leaseHolder(t, env); got != holder {
		t.Errorf("%s took the lease from %s, which holds it", got, holder)
	}
	first.stop()
	bindOne(t, env, "two")
	if got := leaseHolder(t, env); got == holder || got == "" {
		t.Errorf("the lease is held by %q after %q has stopped", got, holder)
	}
	if status, body := second.get("/metrics"); status != http.StatusOK ||
		!strings.Contains(body, `orlop_pvcontroller_sync_duration_seconds_count{queue="claims",result="ok"}`) {
		t.Errorf("metrics: %d %s", status, body)
	}
	second.stop()
	if got := leaseHolder(t, env); got != "" {
		t.Errorf("the lease is still held by %s after all have stopped", got)
	}

	alone := startControllers(t, kubeconfig, "alone", "--leader-elect=false")
	bindOne(t, env, "three")
	if got := leaseHolder(t, env); got != "" {
		t.Errorf("without leader election the lease is held by %s", got)
	}
	alone.stop()
}

// controllersManifests are the namespace and the roles of those parts of the controllers.
func controllersManifests(parts ...string) []string {
	deploy := filepath.Join("..", "..", "deploy")
	files := []string{filepath.Join(deploy, "base", "namespace.yaml")}
	for _, part := range parts {
		if part == "volumes" {
			files = append(files, filepath.Join(deploy, "local", "controllers-rbac.yaml"),
				filepath.Join(deploy, "local", "provisioner-rbac.yaml"))
			continue
		}
		files = append(files, filepath.Join(deploy, "base", part+"-rbac.yaml"))
	}
	return files
}

// TestControllersWithoutVolumes runs them as deploy/config does, with no right to claims and volumes: they are ready once they
// lead.
func TestControllersWithoutVolumes(t *testing.T) {
	env := apienv.Start(t)
	if err := env.Apply(t.Context(), controllersManifests("leader", "rollouts", "versions")...); err != nil {
		t.Fatal(err)
	}
	user, err := env.User("orlop:storage-controllers")
	if err != nil {
		t.Fatal(err)
	}
	kubeconfig, err := env.Kubeconfig(user)
	if err != nil {
		t.Fatal(err)
	}
	r := startControllers(t, kubeconfig, "c", "--volumes=false")
	eventually(t, "they are ready", func() bool { status, _ := r.get("/readyz"); return status == http.StatusOK })
	if holder := leaseHolder(t, env); holder == "" {
		t.Error("they are ready, and nobody holds the lease")
	}
	if status, body := r.get("/metrics"); status != http.StatusOK || strings.Contains(body, "pvcontroller") ||
		!strings.Contains(body, "orlop_rollouts_running") {
		t.Errorf("metrics: %d %s", status, body)
	}
	r.stop()
}

func leaseHolder(t *testing.T, env *apienv.Env) string {
	t.Helper()
	leases, err := env.Client.CoordinationV1().Leases("orlop-system").List(t.Context(), metav1.ListOptions{
		FieldSelector: "metadata.name=orlop-storage-controllers"})
	if err != nil {
		t.Fatal(err)
	}
	for i := range leases.Items {
		if holder := leases.Items[i].Spec.HolderIdentity; holder != nil {
			return *holder
		}
	}
	return ""
}

// bindOne makes a volume and a claim and waits until they are bound.
func bindOne(t *testing.T, env *apienv.Env, name string) {
	t.Helper()
	core, noClass := env.Client.CoreV1(), ""
	size := corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	modes := []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	_, err := core.PersistentVolumes().Create(t.Context(), &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeSpec{
			Capacity: size, AccessModes: modes,
			PersistentVolumeSource: corev1.PersistentVolumeSource{
				HostPath: &corev1.HostPathVolumeSource{Path: "/nonexistent"},
			},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = core.PersistentVolumeClaims("default").Create(t.Context(), &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: modes, StorageClassName: &noClass, Resources: corev1.VolumeResourceRequirements{Requests: size},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "claim "+name+" is bound", func() bool {
		claim, err := core.PersistentVolumeClaims("default").Get(t.Context(), name, metav1.GetOptions{})
		return err == nil && claim.Status.Phase == corev1.ClaimBound
	})
}

func TestControllersRefuse(t *testing.T) {
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{"c": {Server: "https://127.0.0.1:1"}},
		Contexts:       map[string]*clientcmdapi.Context{"c": {Cluster: "c"}},
		CurrentContext: "c",
	}, kubeconfig); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, says string
		flags      []string
	}{
		{"a kubeconfig that is not there", "--kubeconfig", []string{"--kubeconfig", "/nonexistent/kubeconfig"}},
		{"no kubeconfig outside of a pod", "--kubeconfig is needed", nil},
		{"nothing to do", "leave nothing to do", []string{"--volumes=false", "--rollouts=false", "--collect=false"}},
		{"no workers", "--workers is 0", []string{"--workers", "0"}},
		{"a window in the past", "the window is -1s", []string{"--kubeconfig", kubeconfig, "--rollout-window", "-1s"}},
		{"no time to be unused", "--collect-after is 0s", []string{"--kubeconfig", kubeconfig, "--collect-after", "0"}},
		{"less than no rollouts", "the most rollouts at a time are -1", []string{"--kubeconfig", kubeconfig, "--max-rollouts", "-1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("KUBERNETES_SERVICE_HOST", "")
			cmd := newControllersCommand()
			cmd.SetArgs(c.flags)
			cmd.SilenceUsage, cmd.SilenceErrors = true, true
			if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %v, want one that says %q", err, c.says)
			}
		})
	}
}
