package nodenet

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"

	"github.com/orlop-io/orlop/cluster/file"
)

// state is what outlives a reboot: not the kernel's objects, only the choice of address.
type state struct {
	Version int          `json:"version"`
	Name    string       `json:"name"`
	Prefix  netip.Prefix `json:"prefix"`
}

const stateVersion = 1

// readState reads a state file. The error is fs.ErrNotExist when there is none.
func readState(path string) (state, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return state{}, fmt.Errorf("reading the node's network: %w", err)
	}
	var s state
	if err := json.Unmarshal(b, &s); err != nil {
		return state{}, fmt.Errorf("reading the node's network from %s: %w; remove the file to have an address "+
			"chosen anew", path, err)
	}
	switch {
	case s.Version != stateVersion:
		return state{}, fmt.Errorf("%s has format version %d, and this program knows %d; use the version of orlop "+
			"that wrote it", path, s.Version, stateVersion)
	case !validName.MatchString(s.Name) || !isLinkPrefix(s.Prefix):
		return state{}, fmt.Errorf("%s names network %q with prefix %v, which this program never writes; remove the "+
			"file to have an address chosen anew", path, s.Name, s.Prefix)
	}
	return s, nil
}

func writeState(path string, s state) error {
	s.Version = stateVersion
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	if err := file.Write(path, append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("keeping the node's network: %w", err)
	}
	return nil
}
