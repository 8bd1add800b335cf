package controllers

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

const (
	controllersUser = "orlop:storage-controllers"
	controllersRBAC = "../../deploy/local/controllers-rbac.yaml"
)

// controllersConfig is the identity under which every test of the PV controller runs it: the one it has in a cluster,
// with the roles that deploy/local gives it and no other.
var controllersConfig = sync.OnceValues(func() (*rest.Config, error) {
	if err := env.Apply(context.Background(), "../../deploy/base/namespace.yaml",
		"../../deploy/base/leader-rbac.yaml", controllersRBAC); err != nil {
		return nil, err
	}
	return env.User(controllersUser)
})

// pvConfig returns a copy of controllersConfig.
func pvConfig(t testing.TB) *rest.Config {
	t.Helper()
	config, err := controllersConfig()
	if err != nil {
		t.Fatal(err)
	}
	return rest.CopyConfig(config)
}

// callLog records what is asked of the API server as RBAC sees it: "verb resource" or "verb resource/subresource".
type callLog struct {
	mu    sync.Mutex
	calls map[string]bool
}

func (l *callLog) wrap(next http.RoundTripper) http.RoundTripper {
	factory := &request.RequestInfoFactory{
		APIPrefixes: sets.NewString("api", "apis"), GrouplessAPIPrefixes: sets.NewString("api"),
	}
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		info, err := factory.NewRequestInfo(r)
		if err != nil {
			return nil, err
		}
		call := info.Verb + " " + info.Resource
		if info.Subresource != "" {
			call += "/" + info.Subresource
		}
		l.mu.Lock()
		if l.calls == nil {
			l.calls = map[string]bool{}
		}
		l.calls[call] = true
		l.mu.Unlock()
		return next.RoundTrip(r)
	})
}

// TestRoleIsExact compares the calls that the controller makes, over the life of a volume, with what its role allows.
func TestRoleIsExact(t *testing.T) {
	w := newPVWorld(t)
	var log callLog
	config := pvConfig(t)
	config.Wrap(log.wrap)
	runPVController(t, config)
	w.createClass("example.com/nfs", storagev1.VolumeBindingImmediate)
	asked := w.createClaim(w.claim("asked", "1Ti"))
	w.untilEvent(asked, "ExternalProvisioning")
	pv, _ := w.bound(recycled)
	w.deleteClaim("data")
	w.untilEvent(pv, "VolumeFailedRecycle")

	want := map[string]bool{}
	for _, rule := range clusterRole(t).Rules {
		for _, resource := range rule.Resources {
			for _, verb := range rule.Verbs {
				want[verb+" "+resource] = true
			}
		}
	}
	log.mu.Lock()
	defer log.mu.Unlock()
	// Not provoked here: the repetition of an event, and lists, which older API servers need that cannot stream what
	// there is at the start of a watch.
	for call := range want {
		if verb, resource, _ := strings.Cut(call, " "); call == "patch events" || verb == "list" && want["watch "+resource] {
			delete(want, call)
			delete(log.calls, call)
		}
	}
	if !maps.Equal(log.calls, want) {
		t.Errorf("calls:\n%s\nthe role allows:\n%s", strings.Join(slices.Sorted(maps.Keys(log.calls)), "\n"),
			strings.Join(slices.Sorted(maps.Keys(want)), "\n"))
	}
}

// clusterRole reads the ClusterRole from the deployment's file.
func clusterRole(t *testing.T) *rbacv1.ClusterRole {
	t.Helper()
	data, err := os.ReadFile(controllersRBAC)
	if err != nil {
		t.Fatal(err)
	}
	decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(data), 4096)
	for {
		var role rbacv1.ClusterRole
		if err := decoder.Decode(&role); errors.Is(err, io.EOF) {
			t.Fatalf("%s holds no ClusterRole", controllersRBAC)
		} else if err != nil {
			t.Fatal(err)
		}
		if role.Kind == "ClusterRole" {
			return &role
		}
	}
}

// TestIdentitiesMayDoNoMore asks the API server what the user of the bundled cluster and the service account of any
// other one may do.
func TestIdentitiesMayDoNoMore(t *testing.T) {
	user := pvConfig(t)
	token, err := env.Client.CoreV1().ServiceAccounts("orlop-system").CreateToken(t.Context(), "orlop-storage-controllers",
		&authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	account := rest.AnonymousClientConfig(user)
	account.BearerToken = token.Status.Token
	for name, config := range map[string]*rest.Config{"user": user, "service account": account} {
		t.Run(name, func(t *testing.T) { checkRights(t, config) })
	}
}

func checkRights(t *testing.T, config *rest.Config) {
	t.Helper()
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	const lease = "orlop-storage-controllers"
	for _, c := range []struct {
		namespace, verb, group, resource, name string
		want                                   bool
	}{
		{"", "update", "", "persistentvolumes", "", true},
		{"", "delete", "", "persistentvolumeclaims", "", false},
		{"default", "get", "", "secrets", "", false},
		{"default", "create", "", "pods", "", false},
		{"orlop-system", "create", "coordination.k8s.io", "leases", "", true},
		{"orlop-system", "get", "coordination.k8s.io", "leases", lease, true},
		{"orlop-system", "update", "coordination.k8s.io", "leases", lease, true},
		{"orlop-system", "update", "coordination.k8s.io", "leases", "another", false},
		{"default", "get", "coordination.k8s.io", "leases", lease, false},
	} {
		review, err := client.AuthorizationV1().SelfSubjectAccessReviews().Create(t.Context(),
			&authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
				ResourceAttributes: &authorizationv1.ResourceAttributes{
					Namespace: c.namespace, Verb: c.verb, Group: c.group, Resource: c.resource, Name: c.name,
				},
			}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if review.Status.Allowed != c.want {
			t.Errorf("%s %s %q in namespace %q: allowed is %t", c.verb, c.resource, c.name, c.namespace, review.Status.Allowed)
		}
	}
}
