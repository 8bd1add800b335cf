package cluster

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/orlop-io/orlop/cluster/cgroup"
	"github.com/orlop-io/orlop/cluster/file"
)

// stateVersion is the format of a data directory. A newer one is refused, an older one would be migrated.
const stateVersion = 1

// validID is the form of a cluster's ID.
var validID = regexp.MustCompile(`^[0-9a-f]{8}$`)

// State is what a cluster is, from its first start to its purge: cluster.json in the data directory.
type State struct {
	Version int    `json:"version"`
	ID      string `json:"id"` // 8 hexadecimal digits, chosen at random
	Node    string `json:"node"`
	Netns   bool   `json:"netns"`
	Plain   bool   `json:"plain"`
}

// cgroup is the parent of the cgroups of all the cluster's nodes.
func (s *State) cgroup() string { return "/orlop/" + s.ID }

// Orphans tells whether processes of the cluster's pods run: with the supervisor gone, they go on.
func (s *State) Orphans() (bool, error) {
	pids, err := cgroup.Pids(s.cgroup())
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return len(pids) > 0, err
}

// ReadState reads the state of the cluster in a data directory; fs.ErrNotExist when none was ever started there.
func ReadState(dataDir string) (*State, error) {
	path := Layout{DataDir: dataDir}.stateFile()
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var s State
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("%s: %w; it is damaged: restore it, or start a new cluster in another --data-dir", path, err)
	}
	switch {
	case s.Version > stateVersion:
		return nil, fmt.Errorf("%s has format %d and this orlop knows up to %d: use the newer orlop that made it", path, s.Version, stateVersion)
	// Both become parts of paths and names of what is removed at the stop: empty, they would mean other clusters' as well.
	case !validID.MatchString(s.ID) || len(validation.IsDNS1123Subdomain(s.Node)) > 0:
		return nil, fmt.Errorf("%s: the cluster's id %q or node %q is none; it is damaged: restore it, or start a new cluster in another --data-dir",
			path, s.ID, s.Node)
	}
	return &s, nil
}

// ensureState reads the state, or writes a first one with what was asked for. Asking for what the cluster is
// not is an error: a cluster does not change its network or its storage controllers between two starts. One whose first
// start was refused is nothing yet, and takes what the next start asks for.
func ensureState(dataDir string, netns, plain *bool) (*State, error) {
	s, err := ReadState(dataDir)
	if err == nil {
		changed := false
		for _, c := range []struct {
			flag  string
			asked *bool
			is    *bool
		}{{"--netns", netns, &s.Netns}, {"--plain", plain, &s.Plain}} {
			if c.asked == nil || *c.asked == *c.is {
				continue
			}
			if made(dataDir) {
				return nil, fmt.Errorf("the cluster in %s was made with %s=%t and stays so: leave the flag out, or choose another --data-dir",
					dataDir, c.flag, *c.is)
			}
			*c.is, changed = *c.asked, true
		}
		if changed {
			err = s.write(dataDir)
		}
		return s, err
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var id [4]byte
	if _, err := rand.Read(id[:]); err != nil {
		return nil, err
	}
	s = &State{Version: stateVersion, ID: hex.EncodeToString(id[:]), Node: nodeName()}
	if netns != nil {
		s.Netns = *netns
	}
	if plain != nil {
		s.Plain = *plain
	}
	return s, s.write(dataDir)
}

func (s *State) write(dataDir string) error {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return file.WriteAll(Layout{DataDir: dataDir}.stateFile(), append(data, '\n'), 0o644)
}

// made tells whether anything but the state was ever made of the cluster in a data directory.
func made(dataDir string) bool {
	_, err := os.Lstat(Layout{DataDir: dataDir}.pkiDir())
	return !errors.Is(err, fs.ErrNotExist)
}

// nodeName is the host's name in the form Kubernetes takes, or "node" where it has none. That it resolves is
// not needed.
func nodeName() string {
	name, err := os.Hostname()
	if err != nil {
		return "node"
	}
	name = strings.ToLower(name)
	if len(validation.IsDNS1123Subdomain(name)) > 0 || name == "localhost" {
		return "node"
	}
	return name
}
