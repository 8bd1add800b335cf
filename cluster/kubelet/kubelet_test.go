package kubelet

import (
	"testing"
)

// The cluster starts the kubelet by this flag's name, and without it the kubelet is upstream's.
func TestLiveConfigFlag(t *testing.T) {
	f := NewCommand(nil).Flags().Lookup("orlop-config-volumes")
	if f == nil || f.Name != LiveConfigFlag {
		t.Fatalf("the flag is %+v", f)
	}
	if f.DefValue != "false" {
		t.Errorf("the plugins are replaced by default: %s", f.DefValue)
	}
}

func TestConfigIsRequired(t *testing.T) {
	cmd := NewCommand(nil)
	cmd.SetArgs([]string{"--orlop-config-volumes"})
	cmd.SilenceErrors = true
	if err := cmd.ExecuteContext(t.Context()); err == nil {
		t.Error("a kubelet without a configuration file starts")
	}
}
