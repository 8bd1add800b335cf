package leak

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/sys/mountinfo"
)

// loops lists the attached loop devices backed by a file of the test's.
func (s *scope) loops() ([]thing, error) {
	backing, err := loopBacking()
	if err != nil {
		return nil, err
	}
	var found []thing
	for dev, file := range backing {
		if s.owns(file) {
			found = append(found, thing{"loop device", dev + file, fmt.Sprintf("%s, backed by %s", dev, file)})
		}
	}
	return found, nil
}

// mounts lists the mounts on, from, or backed by a file beneath the test's directories.
func (s *scope) mounts() ([]thing, error) {
	backing, err := loopBacking()
	if err != nil {
		return nil, err
	}
	infos, err := mountinfo.GetMounts(nil)
	if err != nil {
		return nil, err
	}
	var found []thing
	for _, m := range infos {
		if s.owns(m.Mountpoint) || s.owns(m.Root) || s.owns(m.Source) || s.owns(backing[m.Source]) {
			text := fmt.Sprintf("%s (%s from %s, root %s)", m.Mountpoint, m.FSType, m.Source, m.Root)
			found = append(found, thing{"mount", fmt.Sprint(m.ID, m.Mountpoint), text})
		}
	}
	return found, nil
}

// loopBacking maps every attached loop device (/dev/loopN) to its backing file.
func loopBacking() (map[string]string, error) {
	files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil, err
	}
	backing := make(map[string]string, len(files))
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			continue // detached between the listing and the reading
		}
		dev := "/dev/" + filepath.Base(filepath.Dir(filepath.Dir(f)))
		backing[dev] = strings.TrimSuffix(strings.TrimSpace(string(data)), " (deleted)")
	}
	return backing, nil
}
