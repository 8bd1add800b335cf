package local

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/orlop-io/orlop/csi/volume"
)

// ParamBackend is the StorageClass parameter that chooses the kind of volume.
const ParamBackend = "backend"

// callerPrefix begins the parameters that provisioners add to a StorageClass's own: the names of the claim and volume
// (external-provisioner's --extra-create-metadata).
const callerPrefix = "csi.storage.k8s.io/"

// callerParams are the parameters with that prefix that are not the provisioner's to consume.
var callerParams = []string{
	callerPrefix + "pv/name", callerPrefix + "pvc/name", callerPrefix + "pvc/namespace",
}

// mediumFor returns the medium that StorageClass parameters ask for, or volume.ErrInvalid, naming the parameter and what
// is allowed.
func (p *Pool) mediumFor(params map[string]string) (Medium, error) {
	kinds := make([]string, len(p.media))
	for i, m := range p.media {
		kinds[i] = string(m.Kind())
	}
	for _, key := range slices.Sorted(maps.Keys(params)) {
		if key != ParamBackend && !slices.Contains(callerParams, key) {
			return nil, fmt.Errorf("%w: unknown StorageClass parameter %q; allowed is %q with one of the values %s",
				volume.ErrInvalid, key, ParamBackend, strings.Join(kinds, ", "))
		}
	}
	backend, given := params[ParamBackend]
	if !given {
		return p.media[0], nil
	}
	if m := p.medium(volume.Kind(backend)); m != nil {
		return m, nil
	}
	return nil, fmt.Errorf("%w: StorageClass parameter %q has the unknown value %q; allowed are %s",
		volume.ErrInvalid, ParamBackend, backend, strings.Join(kinds, ", "))
}

// CheckVolume implements volume.Backend.
func (p *Pool) CheckVolume(v volume.Volume, params map[string]string, caps []volume.Capability) error {
	m := p.medium(v.ID.Kind)
	if m == nil {
		return fmt.Errorf("%w: backend %q is not kept here", volume.ErrInvalid, v.ID.Kind)
	}
	if len(params) > 0 {
		asked, err := p.mediumFor(params)
		if err != nil {
			return err
		}
		if asked.Kind() != v.ID.Kind {
			return fmt.Errorf("%w: the volume has backend %q and not %q", volume.ErrInvalid, v.ID.Kind, asked.Kind())
		}
	}
	if err := checkCapabilities(m, caps); err != nil {
		return err
	}
	if len(caps) > 0 && caps[0].Block != v.Block {
		return fmt.Errorf("%w: the volume was made %s and is asked for %s", volume.ErrInvalid, access(v.Block),
			access(caps[0].Block))
	}
	return nil
}

func checkCapabilities(m Medium, caps []volume.Capability) error {
	for _, c := range caps {
		if c.Block != caps[0].Block {
			return fmt.Errorf("%w: a volume cannot be both a file system and a block device", volume.ErrInvalid)
		}
		if err := m.Check(c); err != nil {
			return err
		}
	}
	return nil
}
