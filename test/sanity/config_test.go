package sanity

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/orlop-io/orlop/csi/config"
	"github.com/orlop-io/orlop/test/apienv"
	"github.com/orlop-io/orlop/test/leak"
)

// TestConfigVolumes runs the specs of the Identity and Node services over the driver of configuration volumes. It has no
// controller: the specs' volumes come from one that is played here, with what a kubelet would say of their pod.
func TestConfigVolumes(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts volumes")
	}
	env := apienv.Start(t)
	dir, work := t.TempDir(), shortDir(t)
	bin, specs := filepath.Join(dir, "orlop-storage"), filepath.Join(dir, "specs")
	run(t, "go", "build", "-o", bin, "../../cmd/orlop-storage")
	run(t, "go", "test", "-C", "specs", "-c", "-o", specs, ".")
	leak.Check(t, leak.Under(work))
	// The node's own identity may do nothing at all: what is read is read with the pod's token.
	user, err := env.User("orlop:storage-node:sanity")
	if err != nil {
		t.Fatal(err)
	}
	kubeconfig, err := env.Kubeconfig(user)
	if err != nil {
		t.Fatal(err)
	}
	runDir := filepath.Join(work, "run")
	startDriver(t, bin, work, "--kubeconfig="+kubeconfig, "--run-dir="+runDir)
	at := filepath.Join(work, "plugins", config.DriverName)
	if err := os.MkdirAll(at, 0o750); err != nil {
		t.Fatal(err)
	}
	controller := filepath.Join(work, "controller.sock")
	play(t, controller, socket(at), podOf(t, env))
	cmd := exec.Command(specs, "-test.v", "-ginkgo.no-color", "-ginkgo.focus=(Identity|Node) Service")
	cmd.Env = append(os.Environ(), "ORLOP_SANITY_BACKEND=config", "ORLOP_SANITY_ACCESS=mount", "ORLOP_SANITY_DIR="+at,
		"ORLOP_SANITY_CONTROLLER="+controller)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	t.Logf("%s", summary(string(out)))
	// The specs of other services are not asked for.
	skips := slices.DeleteFunc(skipped(t, at), func(spec string) bool {
		return !strings.HasPrefix(spec, "Identity Service") && !strings.HasPrefix(spec, "Node Service")
	})
	checkSkips(t, "skips-config.txt", skips, advertised(t, at))
	if left, err := filepath.Glob(filepath.Join(runDir, config.DriverName, "*.json")); err != nil || len(left) > 0 {
		t.Errorf("records left: %v, %v", left, err)
	}
}

// podOf makes a pod that may read a ConfigMap, and returns the attributes of a volume of it.
func podOf(t *testing.T, env *apienv.Env) map[string]string {
	t.Helper()
	ns, core := env.Namespace(t), env.Client.CoreV1()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := core.ConfigMaps(ns).Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "cm"},
		Data: map[string]string{"k": "v"}}, metav1.CreateOptions{})
	must(err)
	_, err = env.Client.RbacV1().Roles(ns).Create(t.Context(), &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "r"},
		Rules: []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"configmaps"}, ResourceNames: []string{"cm"},
			Verbs: []string{"get", "list", "watch"}}}}, metav1.CreateOptions{})
	must(err)
	_, err = env.Client.RbacV1().RoleBindings(ns).Create(t.Context(), &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "r"},
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "r"},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: ns, Name: "default"}}}, metav1.CreateOptions{})
	must(err)
	pod, err := core.Pods(ns).Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}, metav1.CreateOptions{})
	must(err)
	token, err := core.ServiceAccounts(ns).CreateToken(t.Context(), "default", &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: &authenticationv1.BoundObjectReference{
			APIVersion: "v1", Kind: "Pod", Name: "p", UID: pod.UID}}}, metav1.CreateOptions{})
	must(err)
	tokens, err := json.Marshal(map[string]authenticationv1.TokenRequestStatus{"": token.Status})
	must(err)
	const prefix = "csi.storage.k8s.io/"
	return map[string]string{"kind": "ConfigMap", "name": "cm", prefix + "ephemeral": "true", prefix + "pod.name": "p",
		prefix + "pod.namespace": ns, prefix + "pod.uid": string(pod.UID), prefix + "serviceAccount.name": "default",
		prefix + "serviceAccount.tokens": string(tokens)}
}

// player is a controller service whose volumes are names and attributes.
type player struct {
	csi.UnimplementedControllerServer

	attributes map[string]string
}

func (p *player) CreateVolume(_ context.Context, r *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	return &csi.CreateVolumeResponse{Volume: &csi.Volume{VolumeId: r.GetName(), VolumeContext: p.attributes}}, nil
}

func (p *player) DeleteVolume(context.Context, *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	return &csi.DeleteVolumeResponse{}, nil
}

func (p *player) ControllerGetCapabilities(
	context.Context, *csi.ControllerGetCapabilitiesRequest,
) (*csi.ControllerGetCapabilitiesResponse, error) {
	return &csi.ControllerGetCapabilitiesResponse{}, nil
}

// identity passes the calls of the Identity service, which the specs make where the controller is, on to the driver.
type identity struct {
	csi.UnimplementedIdentityServer

	driver csi.IdentityClient
}

func (i *identity) GetPluginInfo(ctx context.Context, r *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return i.driver.GetPluginInfo(ctx, r)
}

func (i *identity) GetPluginCapabilities(
	ctx context.Context, r *csi.GetPluginCapabilitiesRequest,
) (*csi.GetPluginCapabilitiesResponse, error) {
	return i.driver.GetPluginCapabilities(ctx, r)
}

func (i *identity) Probe(ctx context.Context, r *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	return i.driver.Probe(ctx, r)
}

// play serves a player until the test ends, and the driver's Identity service beside it.
func play(t *testing.T, socket, driver string, attributes map[string]string) {
	t.Helper()
	conn, err := grpc.NewClient("unix:"+driver, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	csi.RegisterControllerServer(s, &player{attributes: attributes})
	csi.RegisterIdentityServer(s, &identity{driver: csi.NewIdentityClient(conn)})
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		if err := errors.Join(<-done, conn.Close()); err != nil {
			t.Error(err)
		}
	})
}
