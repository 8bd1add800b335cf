package controllers

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/rest"
)

const (
	provisionRBAC      = "../../deploy/base/provisioner-rbac.yaml"
	provisionNodeGroup = "orlop:storage-nodes"
)

// provisionRolesApplied applies the deployment's roles once.
var provisionRolesApplied = sync.OnceValue(func() error {
	for _, file := range []string{"../../deploy/base/namespace.yaml", provisionRBAC} {
		if _, err := env.Kubectl(context.Background(), "apply", "-f", file); err != nil {
			return err
		}
	}
	return nil
})

// provisionIdentity is an identity with the roles that deploy/base gives it.
func provisionIdentity(t *testing.T, user string, groups ...string) *rest.Config {
	t.Helper()
	if err := provisionRolesApplied(); err != nil {
		t.Fatal(err)
	}
	config, err := env.User(user, groups...)
	if err != nil {
		t.Fatal(err)
	}
	return config
}

// provisionRole reads "verb resource" of everything that a ClusterRole of the deployment allows.
func provisionRole(t *testing.T, name string) map[string]bool {
	t.Helper()
	data, err := os.ReadFile(provisionRBAC)
	if err != nil {
		t.Fatal(err)
	}
	allowed := map[string]bool{}
	decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(data), 4096)
	for {
		var role rbacv1.ClusterRole
		if err := decoder.Decode(&role); errors.Is(err, io.EOF) {
			return allowed
		} else if err != nil {
			t.Fatal(err)
		}
		if role.Kind != "ClusterRole" || role.Name != name {
			continue
		}
		for _, rule := range role.Rules {
			for _, resource := range rule.Resources {
				for _, verb := range rule.Verbs {
					allowed[verb+" "+resource] = true
				}
			}
		}
	}
}

// provisionCalls collects, over all tests of the provisioner, what each role asked of the API server.
var provisionCalls = map[string]*callLog{"orlop-storage-node": {}, "orlop-storage-provisioner": {}}

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
			want, got := provisionRole(t, role), maps.Clone(log.calls)
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
