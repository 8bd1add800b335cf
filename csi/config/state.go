package config

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/orlop-io/orlop/csi/host"
)

// record is what must be known of a published volume to go on with it after a restart.
type record struct {
	ID     string
	Target string
	// Attributes are the pod's and the kubelet's, without tokens.
	Attributes map[string]string
	FSGroup    *int64

	token token
}

// recordText is a record as it is written.
type recordText struct {
	record
	Token   string
	Expires time.Time
}

const (
	stateSource = DriverName + "-state"
	// stateSize bounds the records in sum: each has some kilobytes.
	stateSize    = 64 << 20
	recordSuffix = ".json"
	lockFile     = "lock"
)

// state keeps the records in a directory of its own, which is in memory, since they hold tokens, and the superuser's
// alone. A record is a file that is replaced in one step, its first line the checksum of the rest.
type state struct {
	host *host.Host
	root *host.Root
	lock *os.File
}

// openState opens the directory, and mounts a tmpfs there unless it is mounted already.
func openState(ctx context.Context, h *host.Host, dir string) (*state, error) {
	for {
		s, err := tryState(ctx, h, dir)
		if err != nil {
			return nil, err
		}
		// A driver that ended while this one waited for its lock may have taken the tmpfs away.
		there, err := s.mounted()
		if there && err == nil {
			return s, nil
		}
		if err := errors.Join(err, ctx.Err(), s.release()); err != nil {
			return nil, err
		}
	}
}

// mounted reports whether the tmpfs is still what is seen at the directory.
func (s *state) mounted() (bool, error) {
	mine, err := s.root.Stat(".")
	if err != nil {
		return false, err
	}
	seen, err := os.Stat(s.root.Path())
	return err == nil && os.SameFile(mine, seen), err
}

func tryState(ctx context.Context, h *host.Host, dir string) (_ *state, err error) {
	if err := h.MakeDir("state.directory", dir); err != nil {
		return nil, err
	}
	if err := h.Chmod("state.private", dir, 0o700); err != nil {
		return nil, err
	}
	mounted, err := h.MountAt(dir)
	if err != nil {
		return nil, err
	}
	if mounted == nil || mounted.FSType != "tmpfs" || mounted.Source != stateSource {
		if err := mountState(h, dir); err != nil {
			return nil, err
		}
	}
	s := &state{host: h}
	if s.root, err = h.OpenRoot(dir); err != nil {
		return nil, err
	}
	if s.lock, err = s.root.Lock(ctx, lockFile); err != nil {
		return nil, errors.Join(err, s.root.Close())
	}
	return s, nil
}

func mountState(h *host.Host, dir string) (err error) {
	tmpfs, err := h.NewTmpfs("state.tmpfs", stateSource, stateSize)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tmpfs.Close()) }()
	if err := os.Chmod(h.FDPath(tmpfs), 0o700); err != nil {
		return err
	}
	return h.Attach("state.attach", tmpfs, dir, unix.MS_NOEXEC)
}

// close lets go of the directory. Where no volume is recorded it takes the tmpfs away, so that a driver which is not
// started again leaves nothing mounted; it still has the lock then, and openState looks after it has got it.
func (s *state) close() error {
	names, err := s.root.Names(".")
	if err == nil && !slices.ContainsFunc(names, func(name string) bool { return name != lockFile && name != markersDir }) {
		err = s.host.Detach("state.detach", s.root.Path())
	}
	return errors.Join(err, s.release())
}

func (s *state) release() error { return errors.Join(s.lock.Close(), s.root.Close()) }

// fileOf names a volume's record. An ID is any text.
func fileOf(id string) string {
	sum := sha256.Sum256([]byte(id))
	return hex.EncodeToString(sum[:]) + recordSuffix
}

func (s *state) write(r record) error {
	text, err := json.Marshal(recordText{record: r, Token: string(r.token.bearer), Expires: r.token.expires})
	if err != nil {
		return err
	}
	sum := sha256.Sum256(text)
	file := fmt.Appendf(nil, "%x\n%s", sum, text)
	if err := s.root.WriteFile("record", fileOf(r.ID), file, 0o600); err != nil {
		return fmt.Errorf("record the volume in %s: %w", s.root.Path(), err)
	}
	return nil
}

func (s *state) remove(ctx context.Context, id string) error {
	if err := s.root.RemoveAll(ctx, "record.remove", fileOf(id)); err != nil {
		return fmt.Errorf("remove the volume's record from %s: %w", s.root.Path(), err)
	}
	return nil
}

var errGarbage = errors.New("its checksum is wrong, or it is no record of this driver")

// read returns all records. What is no record is removed, with a word in the log: a republish brings all that was in it.
func (s *state) read(ctx context.Context) ([]record, error) {
	names, err := s.root.Names(".")
	if err != nil {
		return nil, err
	}
	var records []record
	for _, name := range names {
		if name == lockFile || name == markersDir {
			continue
		}
		r, err := s.readOne(name)
		if errors.Is(err, errGarbage) {
			klog.FromContext(ctx).Error(err, "Removing a file that is no record of a volume; the kubelet's next look at the pod "+
				"brings the volume back", "file", name)
			err = s.root.RemoveAll(ctx, "record.garbage", name)
			if err == nil {
				continue
			}
		}
		if err != nil {
			return nil, err
		}
		records = append(records, r)
	}
	return records, nil
}

func (s *state) readOne(name string) (record, error) {
	info, err := s.root.Stat(name)
	if err != nil {
		return record{}, err
	}
	if !strings.HasSuffix(name, recordSuffix) || !info.Mode().IsRegular() {
		return record{}, errGarbage
	}
	file, err := s.root.ReadFile(name)
	if err != nil {
		return record{}, err
	}
	sum, text, _ := bytes.Cut(file, []byte("\n"))
	var read recordText
	if want := sha256.Sum256(text); string(sum) != hex.EncodeToString(want[:]) || json.Unmarshal(text, &read) != nil ||
		fileOf(read.ID) != name {
		return record{}, errGarbage
	}
	read.token = token{bearer(read.Token), read.Expires}
	return read.record, nil
}
