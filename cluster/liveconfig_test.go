package cluster

import (
	"slices"
	"testing"
)

// A plain cluster keeps upstream's configuration volumes, and its kubelet the watches that they need; otherwise ours
// watch for themselves, and the kubelet watches nothing a second time.
func TestLiveConfig(t *testing.T) {
	for name, tt := range map[string]struct {
		change          func(*Cluster)
		flag, detection string
	}{
		"own":   {func(*Cluster) {}, "--orlop-config-volumes=true", "Get"},
		"plain": {plain, "--orlop-config-volumes=false", "Watch"},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, tt.change)
			if args := c.kubelet().Args; !slices.Contains(args, tt.flag) {
				t.Errorf("%s is not among the kubelet's arguments %q", tt.flag, args)
			}
			if got := c.kubeletConfig()["configMapAndSecretChangeDetectionStrategy"]; got != tt.detection {
				t.Errorf("the kubelet's change detection is %v, want %s", got, tt.detection)
			}
		})
	}
}
