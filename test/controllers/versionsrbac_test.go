package controllers

import (
	"maps"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/orlop-io/orlop/configsync/versions"
)

// TestVersionsZRoleIsExact compares the calls that the controller made in all tests before it with what its role allows. Each
// test ran under the role, so a missing rule has already failed one.
func TestVersionsZRoleIsExact(t *testing.T) {
	versionsCalls.mu.Lock()
	got := maps.Clone(versionsCalls.calls)
	versionsCalls.mu.Unlock()
	if len(got) == 0 {
		t.Skip("needs the other tests of versions in the same run")
	}
	role, err := env.Client.RbacV1().ClusterRoles().Get(t.Context(), versionsRole, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{}
	for _, rule := range role.Rules {
		for _, resource := range rule.Resources {
			for _, verb := range rule.Verbs {
				want[verb+" "+resource] = true
			}
		}
	}
	// The repetition of an event is a matter of chance.
	delete(want, "patch events")
	delete(got, "patch events")
	for call := range maps.Clone(got) {
		// A reflector streams its list through a watch, and falls back to a list where that fails.
		if resource, watched := strings.CutPrefix(call, "watch "); watched {
			got["list "+resource] = true
		}
	}
	if !maps.Equal(got, want) {
		t.Errorf("calls:\n%s\nthe role allows:\n%s", strings.Join(slices.Sorted(maps.Keys(got)), "\n"),
			strings.Join(slices.Sorted(maps.Keys(want)), "\n"))
	}
}

// TestVersionsPolicy: the API server itself keeps the controllers from all that is not theirs to collect, whatever RBAC
// would let them do.
func TestVersionsPolicy(t *testing.T) {
	w := newVersionsWorld(t)
	if _, err := versionsConfig(); err != nil {
		t.Fatal(err)
	}
	config := rest.CopyConfig(env.Config)
	config.Impersonate = rest.ImpersonationConfig{UserName: controllersUser, Groups: []string{"system:masters"}}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	w.version("version", "1h")
	w.version("unlabelled", "1h", func(o *corev1.ConfigMap) { o.Labels = nil })
	w.version("otherwise", "1h", func(o *corev1.ConfigMap) { o.Labels[versions.LabelCollect] = "never" })
	w.version("mutable", "1h", func(o *corev1.ConfigMap) { o.Immutable = nil })
	maps := client.CoreV1().ConfigMaps(w.ns)
	patch := []byte(`{"metadata":{"annotations":{"a":"b"}}}`)
	for name, says := range map[string]string{
		"unlabelled": "config.orlop.io/collect", "otherwise": "config.orlop.io/collect", "mutable": "immutable objects alone",
	} {
		// The API server learns of a policy by a watch of its own.
		w.until("the policy holds for "+name, func() (string, error) {
			_, err := maps.Patch(t.Context(), name, types.MergePatchType, patch, metav1.PatchOptions{DryRun: []string{metav1.DryRunAll}})
			if err == nil {
				return "it does not", nil
			}
			if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), says) {
				return "", err
			}
			return "", nil
		})
		if err := maps.Delete(t.Context(), name, metav1.DeleteOptions{}); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), says) {
			t.Errorf("deleting %s: %v", name, err)
		}
	}
	if _, err := maps.Patch(t.Context(), "version", types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		t.Errorf("annotating a version: %v", err)
	}
	if err := maps.Delete(t.Context(), "version", metav1.DeleteOptions{}); err != nil {
		t.Errorf("deleting a version: %v", err)
	}
	// Everybody else does as they please.
	if err := w.client.CoreV1().ConfigMaps(w.ns).Delete(t.Context(), "mutable", metav1.DeleteOptions{}); err != nil {
		t.Error(err)
	}
}

// TestVersionsWithoutSecrets: a controller that may not read Secrets collects ConfigMaps.
func TestVersionsWithoutSecrets(t *testing.T) {
	w := newVersionsWorld(t)
	if _, err := versionsConfig(); err != nil {
		t.Fatal(err)
	}
	role, err := env.Client.RbacV1().ClusterRoles().Get(t.Context(), versionsRole, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	user := "test:versions-" + w.ns
	meta := metav1.ObjectMeta{Name: "test-versions-" + w.ns}
	rules := slices.DeleteFunc(role.Rules, func(r rbacv1.PolicyRule) bool { return slices.Contains(r.Resources, "secrets") })
	if _, err := env.Client.RbacV1().ClusterRoles().Create(t.Context(), &rbacv1.ClusterRole{ObjectMeta: meta, Rules: rules},
		metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	_, err = env.Client.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: meta, Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: user}},
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: meta.Name},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	config, err := env.User(user)
	if err != nil {
		t.Fatal(err)
	}
	secret := w.secretVersion("kept", "0s")
	w.version("gone", "0s")
	w.runAs(config)
	w.untilGone("gone")
	if now, err := w.client.CoreV1().Secrets(w.ns).Get(t.Context(), "kept", metav1.GetOptions{}); err != nil || now.ResourceVersion != secret.ResourceVersion {
		t.Errorf("the Secret is %v, %v", now, err)
	}
}
