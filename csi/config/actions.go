package config

import (
	"errors"
	"fmt"
	"path/filepath"

	"k8s.io/klog/v2"

	"github.com/orlop-io/orlop/configsync/action"
)

// actionKeys are the attributes by which a volume asks for an action on a change of its files. They mean what the
// annotations of a pod mean in the bundled cluster: a driver is told no annotations.
var actionKeys = action.Keys{
	OnChange: "onChange", Debounce: "onChangeDebounce", Retries: "onChangeRetries", Timeout: "onChangeTimeout",
}

// markersDir is the directory, in that of the state, of the files that say up to which generation a volume's changes
// were acted on. Like the records they do not outlive a restart of the node, which starts all containers anew.
const markersDir = "acted-on"

// parseAction reads what a volume wants done on a change; nil is nothing.
func parseAction(attributes map[string]string) (*action.Spec, error) {
	spec, err := actionKeys.Parse(attributes)
	var wrong *action.ParseError
	switch {
	case errors.As(err, &wrong):
		return nil, invalid(wrong.Key, wrong.Err)
	case err != nil:
		return nil, err
	case spec != nil && spec.Kind == action.KindRestart:
		return nil, invalid(actionKeys.OnChange, fmt.Errorf("%s is not offered here: a driver is not told whether the pod's "+
			"restartPolicy would start the container again; use signal, exec or http", action.KindRestart))
	}
	return spec, nil
}

func (v *volume) marker() string {
	return filepath.Join(v.driver.config.StateDir, markersDir, fileOf(v.id))
}

// track begins to follow the volume's generations where an action is asked for. v.mu is held, and the volume is mounted.
func (v *volume) track() {
	runner := v.driver.config.Actions
	if runner == nil || v.p.spec.OnChange == nil || v.tracker != nil && v.tracked == v.writer {
		return
	}
	v.untrack()
	tracker, err := runner.Track(v.writer, v.driver.host.FDPath(v.tree), v.marker())
	if err != nil {
		klog.ErrorS(err, "Changes of a configuration volume are not acted on for now", "target", v.p.Target)
		return
	}
	v.tracker, v.tracked = tracker, v.writer
}

// untrack ends that. v.mu is held.
func (v *volume) untrack() {
	if v.tracker != nil {
		v.tracker.Close()
		v.tracker = nil
	}
}

// act has a change acted on, where the files that were just written are one. v.mu is held.
func (v *volume) act() {
	if v.tracker == nil {
		return
	}
	pod := action.Pod{Namespace: v.p.pod.Namespace, Name: v.p.pod.Name, UID: string(v.p.pod.UID)}
	// The kubelet's path is <pod's directory>/volumes/kubernetes.io~csi/<name>/mount; what containers mount by subPath is
	// below <pod's directory>/volume-subpaths/<name>.
	podDir := filepath.Join(v.p.Target, "../../../..")
	err := v.tracker.Written(action.Change{Pod: pod, Spec: v.p.spec.OnChange, Volume: action.Volume{Name: v.p.volumeName(),
		Dirs: []string{v.p.Target, filepath.Join(podDir, "volume-subpaths", v.p.volumeName())}}}, nil)
	if err != nil {
		klog.ErrorS(err, "Acting on a change of a configuration volume", "target", v.p.Target)
	}
}

// warnUnheeded tells the pod's users of an action that nobody will take. v.mu is held.
func (v *volume) warnUnheeded() {
	if v.driver.config.Actions == nil && v.p.spec.OnChange != nil {
		v.driver.event(v.p.pod, fmt.Sprintf("Volume %q follows its objects, but its attribute %s has no effect: the driver on this "+
			"node was not told the container runtime (orlop-storage node --cri-endpoint)", v.p.volumeName(), actionKeys.OnChange))
	}
}
