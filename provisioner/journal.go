package provisioner

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/encoding/protojson"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
)

// Journal remembers the plans that were sent to the driver and are not settled: whose volume may exist without a
// PersistentVolume. Implementations are safe for concurrent use, except that the calls about one claim must follow each
// other.
type Journal interface {
	// Record makes a plan durable before it returns. A plan of the same claim is replaced.
	Record(plan *Plan) error
	// Lookup returns the recorded plan of a claim. The plan must not be modified.
	Lookup(claimUID types.UID) (*Plan, bool)
	// Forget removes the plan of a claim; it is no error when there is none. A plan may come back after a power loss:
	// settling it again does no harm.
	Forget(claimUID types.UID) error
	// Plans returns every recorded plan in no order.
	Plans() []*Plan
}

var _ Journal = (*FileJournal)(nil)

// journalVersion is written to each file; a file of a later version is left alone.
const journalVersion = 1

const journalSuffix = ".json"

type journalEntry struct {
	Version int             `json:"version"`
	Plan    *Plan           `json:"plan"`
	Request json.RawMessage `json:"request"`
}

// FileJournal keeps one file a plan in a directory of its own, on the node whose volumes the plans are about: what
// destroys the journal destroys the volumes too.
type FileJournal struct {
	root *os.Root

	mu    sync.Mutex
	plans map[types.UID]*Plan
}

// OpenFileJournal reads the journal in dir, which is made if absent (mode 0700) and must belong to this process alone.
// A file that can not be read as a plan is renamed to *.broken and logged: it must not keep the node from starting.
// Close the journal after use.
func OpenFileJournal(dir string, log klog.Logger) (*FileJournal, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("provisioner journal: %w; make its parent directory writable", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("provisioner journal: %w", err)
	}
	j := &FileJournal{root: root, plans: make(map[types.UID]*Plan)}
	if err := j.load(dir, log); err != nil {
		return nil, errors.Join(fmt.Errorf("provisioner journal %s: %w", dir, err), root.Close())
	}
	return j, nil
}

func (j *FileJournal) load(dir string, log klog.Logger) error {
	entries, err := fs.ReadDir(j.root.FS(), ".")
	if err != nil {
		return err
	}
	for _, entry := range entries {
		name := entry.Name()
		if strings.HasSuffix(name, ".tmp") {
			// Cut off before its rename: the request was never sent.
			if err := j.root.Remove(name); err != nil {
				return err
			}
			continue
		}
		if !strings.HasSuffix(name, journalSuffix) {
			continue
		}
		data, err := j.root.ReadFile(name)
		if err != nil {
			return err
		}
		plan, err := decodePlan(data)
		if err != nil {
			log.Error(err, "A recorded volume request is unreadable and was set aside; its volume may exist unused",
				"file", filepath.Join(dir, name+".broken"))
			if err := j.root.Rename(name, name+".broken"); err != nil {
				return err
			}
			continue
		}
		j.plans[plan.ClaimUID] = plan
	}
	return nil
}

// Record implements Journal. It costs one fsync of the file and one of its directory.
func (j *FileJournal) Record(plan *Plan) error {
	data, err := encodePlan(plan)
	if err != nil {
		return fmt.Errorf("record request for volume %s: %w", plan.Request.GetName(), err)
	}
	// Not under the lock, or the syncs of all claims would wait for each other.
	if err := j.write(string(plan.ClaimUID)+journalSuffix, data); err != nil {
		return fmt.Errorf("record request for volume %s in the provisioner journal: %w", plan.Request.GetName(), err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.plans[plan.ClaimUID] = plan
	return nil
}

func (j *FileJournal) write(name string, data []byte) (err error) {
	tmp := name + ".tmp"
	f, err := j.root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, j.root.Remove(tmp))
	}
	if err := j.root.Rename(tmp, name); err != nil {
		return err
	}
	dir, err := j.root.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// Lookup implements Journal.
func (j *FileJournal) Lookup(claimUID types.UID) (*Plan, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	plan, found := j.plans[claimUID]
	return plan, found
}

// Forget implements Journal.
func (j *FileJournal) Forget(claimUID types.UID) error {
	if _, found := j.Lookup(claimUID); !found {
		return nil
	}
	if err := j.root.Remove(string(claimUID) + journalSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove claim %s from the provisioner journal: %w", claimUID, err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	delete(j.plans, claimUID)
	return nil
}

// Plans implements Journal.
func (j *FileJournal) Plans() []*Plan {
	j.mu.Lock()
	defer j.mu.Unlock()
	plans := make([]*Plan, 0, len(j.plans))
	for _, plan := range j.plans {
		plans = append(plans, plan)
	}
	return plans
}

// Close releases the directory. The journal must not be used afterwards.
func (j *FileJournal) Close() error { return j.root.Close() }

func encodePlan(plan *Plan) ([]byte, error) {
	request, err := protojson.Marshal(plan.Request)
	if err != nil {
		return nil, err
	}
	return json.Marshal(journalEntry{Version: journalVersion, Plan: plan, Request: request})
}

func decodePlan(data []byte) (*Plan, error) {
	var entry journalEntry
	decoder := json.NewDecoder(bytes.NewReader(data))
	if err := decoder.Decode(&entry); err != nil {
		return nil, err
	}
	if entry.Version != journalVersion {
		return nil, fmt.Errorf("version %d, and this program reads version %d", entry.Version, journalVersion)
	}
	if entry.Plan == nil || entry.Plan.ClaimUID == "" {
		return nil, errors.New("no claim UID")
	}
	request := &csi.CreateVolumeRequest{}
	if err := protojson.Unmarshal(entry.Request, request); err != nil {
		return nil, err
	}
	if request.GetName() != VolumeName(entry.Plan.ClaimUID) {
		return nil, fmt.Errorf("the request's name %q does not belong to claim %s", request.GetName(),
			entry.Plan.ClaimUID)
	}
	entry.Plan.Request = request
	return entry.Plan, nil
}
