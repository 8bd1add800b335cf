package nodenet

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
)

// state is what outlives a reboot: not the kernel's objects, only the choice of address.
type state struct {
	Version int          `json:"version"`
	Name    string       `json:"name"`
	Prefix  netip.Prefix `json:"prefix"`
}

const stateVersion = 1

// readState reads a state file. The error is fs.ErrNotExist when there is none.
func readState(file string) (state, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return state{}, fmt.Errorf("reading the node's network: %w", err)
	}
	var s state
	if err := json.Unmarshal(b, &s); err != nil {
		return state{}, fmt.Errorf("reading the node's network from %s: %w; remove the file to have an address "+
			"chosen anew", file, err)
	}
	switch {
	case s.Version != stateVersion:
		return state{}, fmt.Errorf("%s has format version %d, and this program knows %d; use the version of orlop "+
			"that wrote it", file, s.Version, stateVersion)
	case !validName.MatchString(s.Name) || !isLinkPrefix(s.Prefix):
		return state{}, fmt.Errorf("%s names network %q with prefix %v, which this program never writes; remove the "+
			"file to have an address chosen anew", file, s.Name, s.Prefix)
	}
	return s, nil
}

func writeState(file string, s state) error {
	s.Version = stateVersion
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	if err := writeFileAtomic(file, append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("keeping the node's network: %w", err)
	}
	return nil
}

// writeFileAtomic replaces a file so that readers, and whoever comes after a crash, see the old content or
// the new, never a part. The directory must exist.
func writeFileAtomic(file string, content []byte, mode os.FileMode) (err error) {
	tmp, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(tmp.Name()))
		}
	}()
	_, err = tmp.Write(content)
	if err == nil {
		err = tmp.Chmod(mode)
	}
	if err == nil {
		err = tmp.Sync()
	}
	if err = errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), file)
}
