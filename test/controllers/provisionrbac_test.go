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
	provisionRBAC       = "../../deploy/local/provisioner-rbac.yaml"
	provisionNodeRole   = "orlop-storage-node"
	provisionLeaderRole = "orlop-storage-provisioner"
	provisionNodeGroup  = "orlop:storage-nodes"
)

// provisionGrants is what the deployment grants under one name. The namespaced ones may be nil.
type provisionGrants struct {
	clusterRole    *rbacv1.ClusterRole
	clusterBinding *rbacv1.ClusterRoleBinding
	role           *rbacv1.Role
	binding        *rbacv1.RoleBinding
}

func (g *provisionGrants) rules() []rbacv1.PolicyRule {
	rules := g.clusterRole.Rules
	if g.role != nil {
		rules = append(slices.Clone(rules), g.role.Rules...)
	}
	return rules
}

// provisionRole reads the grants of a name from the deployment.
func provisionRole(t testing.TB, name string) *provisionGrants {
	t.Helper()
	grants := &provisionGrants{}
	data, err := os.ReadFile(provisionRBAC)
	if err != nil {
		t.Fatal(err)
	}
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
				grants.clusterRole = o
			}
		case *rbacv1.ClusterRoleBinding:
			if o.Name == name {
				grants.clusterBinding = o
			}
		case *rbacv1.Role:
			if o.Name == name {
				grants.role = o
			}
		case *rbacv1.RoleBinding:
			if o.Name == name {
				grants.binding = o
			}
		}
	}
	if grants.clusterRole == nil || grants.clusterBinding == nil {
		t.Fatalf("%s has no role %s with a binding of that name", provisionRBAC, name)
	}
	return grants
}

// provisionIdentity is an identity that has a role of the deployment for the time of the test. Other tests of the
// package use the same user without that role.
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
	grants := provisionRole(t, role)
	rbac, ctx := env.Client.RbacV1(), context.Background()
	_, err = rbac.ClusterRoles().Create(ctx, grants.clusterRole, metav1.CreateOptions{})
	errs := []error{err}
	if grants.role != nil {
		_, err = rbac.Roles(grants.role.Namespace).Create(ctx, grants.role, metav1.CreateOptions{})
		errs = append(errs, err)
		_, err = rbac.RoleBindings(grants.role.Namespace).Create(ctx, grants.binding, metav1.CreateOptions{})
		errs = append(errs, err)
	}
	for _, err := range errs {
		if err != nil && !apierrors.IsAlreadyExists(err) {
			t.Fatal(err)
		}
	}
	_, err = rbac.ClusterRoleBindings().Create(ctx, grants.clusterBinding, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return config
	}
	if err != nil {
		t.Fatal(err)
	}
	untilAuthorized(t, client, true)
	t.Cleanup(func() {
		if err := rbac.ClusterRoleBindings().Delete(ctx, grants.clusterBinding.Name, metav1.DeleteOptions{}); err != nil {
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

// provisionAllowed lists "verb resource" of everything that the deployment grants under a name.
func provisionAllowed(t *testing.T, name string) map[string]bool {
	t.Helper()
	allowed := map[string]bool{}
	for _, rule := range provisionRole(t, name).rules() {
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
		path := "../../deploy/local/" + name
		if _, err := env.Kubectl(t.Context(), "apply", "--dry-run=server", "--validate=strict", "-f", path); err != nil {
			t.Error(err)
		}
	}
}
