package config

import (
	"fmt"
	"math"
	"path/filepath"
	"reflect"
	"strconv"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"k8s.io/apimachinery/pkg/types"

	csivolume "github.com/orlop-io/orlop/csi/volume"
)

// publication is a volume as the kubelet asks for it.
type publication struct {
	record
	pod     Pod
	account Account
	spec    Spec
}

// same reports whether nothing but the token differs.
func (p publication) same(q publication) bool {
	p.token, q.token = token{}, token{}
	return reflect.DeepEqual(p, q)
}

// volumeName is the volume's name in the pod: the kubelet's path is <pod's directory>/volumes/kubernetes.io~csi/<name>/mount.
func (p publication) volumeName() string { return filepath.Base(filepath.Dir(p.Target)) }

// checkRequest says what is wrong with the form of a request.
func checkRequest(r *csi.NodePublishVolumeRequest) error {
	invalid := func(format string, args ...any) error {
		return fmt.Errorf("%w: "+format, append([]any{csivolume.ErrInvalid}, args...)...)
	}
	if r.GetVolumeId() == "" {
		return invalid("field volume_id is empty")
	}
	if !filepath.IsAbs(r.GetTargetPath()) {
		return invalid("field target_path is no absolute path: %q", r.GetTargetPath())
	}
	if r.GetVolumeCapability() == nil {
		return invalid("field volume_capability is empty")
	}
	mount := r.GetVolumeCapability().GetMount()
	if mount == nil {
		return invalid("a configuration volume has files: it cannot be used as a block device")
	}
	if fs := mount.GetFsType(); fs != "" && fs != "tmpfs" {
		return invalid("a configuration volume is a tmpfs, and cannot have fsType %q", fs)
	}
	if len(mount.GetMountFlags()) > 0 {
		return invalid("a configuration volume takes no mount options")
	}
	for name := range r.GetSecrets() {
		if name != tokensKey {
			return invalid("a configuration volume takes no nodePublishSecretRef; name the Secret in the attributes")
		}
	}
	if _, err := fsGroup(mount.GetVolumeMountGroup()); err != nil {
		return invalid("field volume_mount_group: %w", err)
	}
	return nil
}

func fsGroup(group string) (*int64, error) {
	if group == "" {
		return nil, nil
	}
	n, err := strconv.ParseInt(group, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt32 {
		return nil, fmt.Errorf("%q is no group ID", group)
	}
	return &n, nil
}

// publicationOf reads a request whose form is right.
func publicationOf(r *csi.NodePublishVolumeRequest) (publication, error) {
	group, err := fsGroup(r.GetVolumeCapability().GetMount().GetVolumeMountGroup())
	if err != nil {
		return publication{}, err
	}
	text := r.GetSecrets()[tokensKey]
	attributes := map[string]string{}
	for name, value := range r.GetVolumeContext() {
		if name != tokensKey {
			attributes[name] = value
		} else if text == "" {
			text = value
		}
	}
	t, tokenErr := parseTokens(text)
	p, err := parsePublication(r.GetVolumeId(), r.GetTargetPath(), attributes, group, t)
	if err == nil && tokenErr != nil {
		err = fmt.Errorf("%w: %w", csivolume.ErrNotReady, tokenErr)
	}
	return p, err
}

func parsePublication(id, target string, attributes map[string]string, group *int64, t token) (publication, error) {
	p := publication{record: record{ID: id, Target: filepath.Clean(target), Attributes: attributes, FSGroup: group, token: t}}
	info := func(name string) string { return attributes[kubeletPrefix+name] }
	p.pod = Pod{info("pod.namespace"), info("pod.name"), types.UID(info("pod.uid"))}
	p.account = Account{p.pod.Namespace, info("serviceAccount.name")}
	var err error
	// What the user wrote first: that is what can be mended where it was written.
	if p.spec, err = ParseAttributes(attributes, p.pod.Namespace); err != nil {
		return p, err
	}
	if p.pod.Namespace == "" || p.pod.Name == "" || p.account.Name == "" {
		return p, fmt.Errorf("%w: the kubelet did not say for which pod the volume is: the CSIDriver object %s must have "+
			"podInfoOnMount; apply deploy/base/csidriver-config.yaml", csivolume.ErrNotReady, DriverName)
	}
	if info("ephemeral") == "false" {
		return p, fmt.Errorf("%w: %s serves inline ephemeral volumes of a pod alone, no PersistentVolumes", csivolume.ErrInvalid, DriverName)
	}
	return p, nil
}
