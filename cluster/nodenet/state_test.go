package nodenet

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestState(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "network.json")
	if _, err := Load(file); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("Load without a file: %v", err)
	}
	want := state{Version: stateVersion, Name: "orlop-x-n1", Prefix: netip.MustParsePrefix("198.18.3.4/30")}
	if err := writeState(file, want); err != nil {
		t.Fatal(err)
	}
	n, err := Load(file)
	if err != nil {
		t.Fatal(err)
	}
	if n.Name != want.Name || n.Prefix != want.Prefix || n.HostAddr.String() != "198.18.3.5" ||
		n.NodeAddr.String() != "198.18.3.6" || n.NetnsPath != "/run/netns/orlop-x-n1" || len(n.HostInterface) > 15 {
		t.Errorf("Load = %+v", n)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("writing left %v, %v", entries, err)
	}

	for name, content := range map[string]string{
		"not JSON":      "{",
		"newer version": `{"version":2,"name":"orlop-x-n1","prefix":"198.18.3.4/30"}`,
		"bad name":      `{"version":1,"name":"../x","prefix":"198.18.3.4/30"}`,
		"bad prefix":    `{"version":1,"name":"orlop-x-n1","prefix":"10.0.0.0/8"}`,
		"no prefix":     `{"version":1,"name":"orlop-x-n1"}`,
	} {
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(file); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: %v; want an error that names the file", name, err)
		}
	}
}
