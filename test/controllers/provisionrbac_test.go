package controllers

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
)

const (
	provisionRBAC       = "../../deploy/base/provisioner-rbac.yaml"
	provisionNodeRole   = "orlop-storage-node"
	provisionLeaderRole = "orlop-storage-provisioner"
	provisionNodeGroup  = "orlop:storage-nodes"
)

// provisionRole reads a ClusterRole and its binding from the deployment.
func provisionRole(t testing.TB, name string) (*rbacv1.ClusterRole, *rbacv1.ClusterRoleBinding) {
	t.Helper()
	data, err := os.ReadFile(provisionRBAC)
	if err != nil {
		t.Fatal(err)
	}
	var role *rbacv1.ClusterRole
	var binding *rbacv1.ClusterRoleBinding
	documents := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(data)))
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		object, _, err := scheme.Codecs.UniversalDeserializer().Decode(document, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		switch o := object.(type) {
		case *rbacv1.ClusterRole:
			if o.Name == name {
				role = o
			}
		case *rbacv1.ClusterRoleBinding:
			if o.Name == name {
				binding = o
			}
		}
	}
	if role == nil || binding == nil {
		t.Fatalf("%s has no role %s with a binding of that name", provisionRBAC, name)
	}
	return role, binding
}

// provisionIdentity is an identity that has a role of the deployment for the time of the test. Other tests of the package
// use the same user without that role.
func provisionIdentity(t testing.TB, role, user string, groups ...string) *rest.Config {
	t.Helper()
	config, err := env.User(user, groups...)
	if err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	object, binding := provisionRole(t, role)
	rbac, ctx := env.Client.RbacV1(), context.Background()
	if _, err := rbac.ClusterRoles().Create(ctx, object, metav1.CreateOptions{}); err != nil &&
		!apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	_, err = rbac.ClusterRoleBindings().Create(ctx, binding, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return config
	}
	if err != nil {
		t.Fatal(err)
	}
	untilAuthorized(t, client, true)
	t.Cleanup(func() {
		if err := rbac.ClusterRoleBindings().Delete(ctx, binding.Name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
		untilAuthorized(t, client, false)
	})
	return config
}

// untilAuthorized waits until the API server's authorizer has seen that a role of the provisioner was given to the
// client's user, or taken away.
func untilAuthorized(t testing.TB, client kubernetes.Interface, want bool) {
	t.Helper()
	review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
		ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: "patch", Resource: "persistentvolumes"},
	}}
	// Not the test's context, which has ended when this is called at its end.
	err := wait.PollUntilContextTimeout(context.Background(), 10*time.Millisecond, patience, true,
		func(ctx context.Context) (bool, error) {
			answer, err := client.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
			return err == nil && answer.Status.Allowed == want, err
		})
	if err != nil {
		t.Fatalf("waiting until the user's right to use the role is %v: %v", want, err)
	}
}

// provisionAllowed lists "verb resource" of everything that a ClusterRole of the deployment allows.
func provisionAllowed(t *testing.T, name string) map[string]bool {
	t.Helper()
	role, _ := provisionRole(t, name)
	allowed := map[string]bool{}
	for _, rule := range role.Rules {
		for _, resource := range rule.Resources {
			for _, verb := range rule.Verbs {
				allowed[verb+" "+resource] = true
			}
		}
	}
	return allowed
}

// provisionCalls collects, over all tests of the provisioner, what each role asked of the API server.
var provisionCalls = map[string]*callLog{provisionNodeRole: {}, provisionLeaderRole: {}}

// TestProvisionZRolesAreExact compares the calls that the provisioner made in all tests before it with what its roles
// allow. Each test ran under the role, so a missing rule has already failed one.
func TestProvisionZRolesAreExact(t *testing.T) {
	for role, log := range provisionCalls {
		t.Run(role, func(t *testing.T) {
			log.mu.Lock()
			defer log.mu.Unlock()
			if len(log.calls) == 0 {
				t.Skip("needs the other tests of the provisioner in the same run")
			}
			want, got := provisionAllowed(t, role), maps.Clone(log.calls)
			// The repetition of an event is a matter of chance.
			delete(want, "patch events")
			delete(got, "patch events")
			// A reflector streams its list through a watch, and falls back to a list where that fails.
			for call := range maps.Clone(got) {
				if resource, watched := strings.CutPrefix(call, "watch "); watched {
					got["list "+resource] = true
				}
			}
			if !maps.Equal(got, want) {
				t.Errorf("calls:\n%s\nthe role allows:\n%s", strings.Join(slices.Sorted(maps.Keys(got)), "\n"),
					strings.Join(slices.Sorted(maps.Keys(want)), "\n"))
			}
		})
	}
}

// TestProvisionManifests has the API server accept the driver's and the class's manifests.
func TestProvisionManifests(t *testing.T) {
	for _, name := range []string{"csidriver-local.yaml", "storageclass-local.yaml"} {
		path := "../../deploy/base/" + name
		if _, err := env.Kubectl(t.Context(), "apply", "--dry-run=server", "--validate=strict", "-f", path); err != nil {
			t.Error(err)
		}
	}
}
