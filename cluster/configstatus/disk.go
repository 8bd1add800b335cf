package configstatus

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/orlop-io/orlop/configsync/writer"
)

// csiDriver is the driver of configuration volumes that are written into manifests as CSI volumes.
const csiDriver = "config.csi.orlop.io"

// plugins are the directories that the kubelet keeps the volumes of each kind in, below volumes/ of a pod.
var plugins = map[string]string{
	"kubernetes.io~configmap":    "configMap",
	"kubernetes.io~secret":       "secret",
	"kubernetes.io~projected":    "projected",
	"kubernetes.io~downward-api": "downwardAPI",
	"kubernetes.io~csi":          "csi",
}

// Node is where a node's kubelet keeps its files.
type Node struct {
	KubeletDir string
	// PodLogsDir tells the names of pods where there is no API server.
	PodLogsDir string
}

// mounted is a volume on the node's disk.
type mounted struct {
	kind, path string
	generation writer.Generation
	visible    bool // there is a generation
	err        error
}

// id names a volume of a pod; its names are unique over all kinds.
type id struct{ podUID, volume string }

// volumes reads all configuration volumes of the node. What cannot be read is reported with the volume.
func (n Node) volumes() (map[id]mounted, error) {
	found := map[id]mounted{}
	pods := filepath.Join(n.KubeletDir, "pods")
	uids, err := names(pods)
	if err != nil {
		return nil, fmt.Errorf("the kubelet's pods: %w", err)
	}
	for _, uid := range uids {
		for plugin, kind := range plugins {
			dir := filepath.Join(pods, uid, "volumes", plugin)
			volumes, err := names(dir)
			if err != nil {
				return nil, fmt.Errorf("the volumes of pod %s: %w", uid, err)
			}
			for _, volume := range volumes {
				m := mounted{kind: kind, path: filepath.Join(dir, volume)}
				if kind == "csi" {
					ours, err := isOurs(m.path)
					if err != nil {
						return nil, err
					}
					if !ours {
						continue
					}
					m.path = filepath.Join(m.path, "mount")
				}
				m.generation, m.visible, m.err = writer.ReadGeneration(m.path)
				found[id{uid, volume}] = m
			}
		}
	}
	return found, nil
}

// isOurs reports whether a CSI volume is one of configuration, by the file in which the kubelet notes its driver.
func isOurs(dir string) (bool, error) {
	path := filepath.Join(dir, "vol_data.json")
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // it is being taken down
	}
	if err != nil {
		return false, fmt.Errorf("a CSI volume's driver: %w", err)
	}
	var data struct {
		DriverName string `json:"driverName"`
	}
	if err := json.Unmarshal(raw, &data); err != nil {
		return false, fmt.Errorf("%s: %w", path, err)
	}
	return data.DriverName == csiDriver, nil
}

// podNames returns namespace and name of the pods that ever ran a container on the node, by UID.
func (n Node) podNames() (map[string][2]string, error) {
	dirs, err := names(n.PodLogsDir)
	if err != nil {
		return nil, fmt.Errorf("the pods' logs: %w", err)
	}
	known := map[string][2]string{}
	for _, dir := range dirs {
		if part := strings.Split(dir, "_"); len(part) == 3 {
			known[part[2]] = [2]string{part[0], part[1]}
		}
	}
	return known, nil
}

// names lists a directory, which need not exist: pods come and go.
func names(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	all := make([]string, len(entries))
	for i, e := range entries {
		all[i] = e.Name()
	}
	return all, nil
}
