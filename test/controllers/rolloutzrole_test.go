package controllers

import (
	"errors"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestRolloutZRoleIsExact compares the calls of all tests of rollouts before it with what the role allows. Each ran under the
// role, so that a missing rule has already failed one.
func TestRolloutZRoleIsExact(t *testing.T) {
	rolloutCalls.mu.Lock()
	defer rolloutCalls.mu.Unlock()
	if len(rolloutCalls.calls) == 0 {
		t.Skip("needs the other tests of rollouts in the same run")
	}
	want, err := allowed(t)
	if err != nil {
		t.Fatal(err)
	}
	for call := range want {
		verb, resource, _ := strings.Cut(call, " ")
		// Not provoked: the repetition of an event, and lists, which API servers need that cannot stream what there is at
		// the start of a watch.
		if !rolloutCalls.calls[call] && call != "patch events" && (verb != "list" || !want["watch "+resource]) {
			t.Errorf("the role allows %q, which is never done", call)
		}
	}
	for call := range rolloutCalls.calls {
		if !want[call] {
			t.Errorf("the role does not allow %q, which is done", call)
		}
	}
}

// allowed lists "verb resource" of all that the cluster role and the role for the key allow.
func allowed(t *testing.T) (map[string]bool, error) {
	rbac := env.Client.RbacV1()
	cluster, err1 := rbac.ClusterRoles().Get(t.Context(), rolloutRole, metav1.GetOptions{})
	key, err2 := rbac.Roles("orlop-system").Get(t.Context(), rolloutRole, metav1.GetOptions{})
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	calls := map[string]bool{}
	for _, rule := range append(cluster.Rules, key.Rules...) {
		for _, resource := range rule.Resources {
			for _, verb := range rule.Verbs {
				calls[verb+" "+resource] = true
			}
		}
	}
	return calls, nil
}
