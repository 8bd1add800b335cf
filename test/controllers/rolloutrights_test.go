package controllers

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/orlop-io/orlop/configsync/rollout"
)

// withoutSecrets is a user with all of the deployment's rights but the one to read Secrets.
func withoutSecrets(t *testing.T, user string) *rest.Config {
	t.Helper()
	if _, err := rolloutConfig(); err != nil {
		t.Fatal(err)
	}
	ctx, roles := context.Background(), env.Client.RbacV1().ClusterRoles()
	role, err := roles.Get(ctx, rolloutRole, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	less := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "rollouts-without-secrets"}}
	for _, rule := range role.Rules {
		if rule.Resources[0] != "secrets" {
			less.Rules = append(less.Rules, rule)
		}
	}
	if _, err := roles.Create(ctx, less, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	config, err := rolloutIdentity(ctx, user, less.Name)
	if err != nil {
		t.Fatal(err)
	}
	return config
}

// TestRolloutSecretsForbidden: a controller that may not read Secrets rolls for ConfigMaps, and tells of Secrets.
func TestRolloutSecretsForbidden(t *testing.T) {
	config := withoutSecrets(t, "test:rollouts-forbidden")
	w := newRolloutWorld(t)
	w.set("configmap/c", "1")
	w.set("secret/s", "1")
	w.restart(func() { w.config = config })
	w.deploy("d", uses("configmap/c", "secret/s"), rollout.AnnotationRollout, rolloutOn)
	w.untilEvent("d", rollout.ReasonUnreadable, "Secret "+w.ns+"/s", "ClusterRole "+rolloutRole)
	w.follows("d", "ConfigMap/c")
	w.set("secret/s", "2")
	w.set("configmap/c", "2")
	w.rolled("d", 1)

	// With the right, the Secret is known as it is now.
	w.restart(func() { w.config, _ = rolloutConfig() })
	w.follows("d", "ConfigMap/c", "Secret/s")
	w.rolled("d", 1)
	w.set("secret/s", "3")
	w.rolled("d", 2)
	// And what is known stays when the right is lost.
	w.restart(func() { w.config = config; w.set("secret/s", "4") })
	w.looked("Deployment/d", func() { w.set("configmap/c", "3") })
	w.rolled("d", 3)
	w.restart(func() { w.config, _ = rolloutConfig() })
	w.rolled("d", 4)
}

// TestRolloutRightLost: a controller that loses the right to Secrets while it runs tells so, and rolls for ConfigMaps.
func TestRolloutRightLost(t *testing.T) {
	config := withoutSecrets(t, "test:rollouts-lost")
	ctx, rbac := t.Context(), env.Client.RbacV1()
	meta := metav1.ObjectMeta{Name: "test-rollouts-secrets"}
	_, err := rbac.ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"get", "list", "watch"}},
	}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = rbac.ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{ObjectMeta: meta,
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: "test:rollouts-lost"}},
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: meta.Name}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var cutter watchCutter
	config.Wrap(cutter.wrap)
	w := newRolloutWorld(t)
	w.set("configmap/c", "1")
	w.set("secret/s", "1")
	w.restart(func() { w.config = config })
	w.deploy("d", uses("configmap/c", "secret/s"), rollout.AnnotationRollout, rolloutOn)
	w.follows("d", "ConfigMap/c", "Secret/s")
	w.set("secret/s", "2")
	w.rolled("d", 1)

	if err := rbac.ClusterRoleBindings().Delete(ctx, meta.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.until("the loss is told", func() string {
		// Roles say who may begin to watch: one that has begun goes on, until the connection breaks or its time is over.
		if err := cutter.cut("/secrets"); err != nil {
			return err.Error()
		}
		if w.hasEvent("d", rollout.ReasonUnreadable) {
			return ""
		}
		return "it is not"
	})
	w.follows("d", "ConfigMap/c", "Secret/s")
	w.set("configmap/c", "2")
	w.rolled("d", 2)
}

// TestRolloutNoRights: a controller that may do nothing waits, and ends when it is told to. As soon as it may, it works.
func TestRolloutNoRights(t *testing.T) {
	if _, err := rolloutConfig(); err != nil {
		t.Fatal(err)
	}
	none, err := env.User("test:rollouts-none")
	if err != nil {
		t.Fatal(err)
	}
	w := newRolloutWorld(t)
	w.set("configmap/c", "1")
	var refused atomic.Bool
	none.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			response, err := next.RoundTrip(r)
			if err == nil && response.StatusCode == http.StatusForbidden {
				refused.Store(true)
			}
			return response, err
		})
	})
	w.restart(func() { w.config = none })
	w.until("it is refused", func() string {
		if refused.Load() {
			return ""
		}
		return "it is not"
	})
	w.restart(func() { w.config, err = rolloutConfig() })
	w.deploy("d", uses("configmap/c"), rollout.AnnotationRollout, rolloutOn)
	w.follows("d", "ConfigMap/c")
}

// watchCutter breaks connections.
type watchCutter struct {
	mu   sync.Mutex
	open map[string][]io.Closer
}

func (c *watchCutter) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		response, err := next.RoundTrip(r)
		if err == nil && r.URL.Query().Get("watch") != "" {
			c.mu.Lock()
			defer c.mu.Unlock()
			if c.open == nil {
				c.open = map[string][]io.Closer{}
			}
			c.open[r.URL.Path] = append(c.open[r.URL.Path], response.Body)
		}
		return response, err
	})
}

// cut breaks all watches of paths that end so.
func (c *watchCutter) cut(end string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for path, bodies := range c.open {
		if !strings.HasSuffix(path, end) {
			continue
		}
		for _, body := range bodies {
			if err := body.Close(); err != nil {
				return err
			}
		}
		delete(c.open, path)
	}
	return nil
}

// TestRolloutKeyLost: with another key, what is there is known, and nothing rolls; a key that is none is told.
func TestRolloutKeyLost(t *testing.T) {
	w := newRolloutWorld(t)
	w.set("configmap/c", "1")
	w.deploy("d", uses("configmap/c"), rollout.AnnotationRollout, rolloutOn)
	before := w.follows("d", "ConfigMap/c")["ConfigMap/c"]
	keys := w.client.CoreV1().Secrets("orlop-system")
	forget := func() {
		t.Helper()
		if err := keys.Delete(t.Context(), rollout.KeySecret, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	w.restart(func() { forget(); w.set("configmap/c", "2") })
	var after string
	w.until("the baseline is of the new key", func() string {
		if after = observed(w.deployment("d").Annotations)["ConfigMap/c"]; after == before {
			return "it is of the old one"
		}
		return ""
	})
	w.rolled("d", 0)
	w.set("configmap/c", "3")
	w.rolled("d", 1)
	key, err := keys.Get(t.Context(), rollout.KeySecret, metav1.GetOptions{})
	if err != nil || key.Immutable == nil || !*key.Immutable || len(key.Data["key"]) != 32 {
		t.Errorf("the key is not an immutable Secret of 32 bytes: %v", err)
	}
	d := w.deployment("d")
	for _, text := range []string{d.Annotations[rollout.AnnotationObserved], d.Spec.Template.Annotations[rollout.AnnotationHash]} {
		if strings.Contains(text, string(key.Data["key"])) {
			t.Error("the key is in an annotation")
		}
	}
}
