package provisioner

import (
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
)

// Plan is everything needed to make one volume and its PersistentVolume. It does not change once it was sent to the
// driver: a repetition after an unfinished answer must ask for the very same volume, even if the class was replaced
// in between.
type Plan struct {
	ClaimNamespace string                               `json:"claimNamespace"`
	ClaimName      string                               `json:"claimName"`
	ClaimUID       types.UID                            `json:"claimUID"`
	ClassName      string                               `json:"className"`
	FSType         string                               `json:"fsType,omitempty"`
	VolumeMode     corev1.PersistentVolumeMode          `json:"volumeMode"`
	AccessModes    []corev1.PersistentVolumeAccessMode  `json:"accessModes"`
	MountOptions   []string                             `json:"mountOptions,omitempty"`
	ReclaimPolicy  corev1.PersistentVolumeReclaimPolicy `json:"reclaimPolicy"`
	// Request is what the driver is asked. It carries no secrets.
	Request *csi.CreateVolumeRequest `json:"-"`
}

// PlanInput is what NewPlan decides from. It is not modified.
type PlanInput struct {
	Claim *corev1.PersistentVolumeClaim
	Class *storagev1.StorageClass
	// Topology is the driver's topology of the selected node, as NodeGetInfo answers it. Nil means that the driver
	// has none and the volume is reachable from everywhere.
	Topology map[string]string
	// SingleNodeMultiWriter says that the driver has the capability of that name.
	SingleNodeMultiWriter bool
}

// VolumeName returns the name of the volume, in CSI and as a PersistentVolume, that is provisioned for a claim. It is
// the same for every attempt, which is what makes CreateVolume idempotent (CSI spec, CreateVolume).
func VolumeName(claimUID types.UID) string { return volumeNamePrefix + string(claimUID) }

// NewPlan decides how to provision a claim. The error, if any, is a *Refusal. It reads nothing but its input.
func NewPlan(in PlanInput) (*Plan, error) {
	if r := CheckClaim(in.Claim); r != nil {
		return nil, r
	}
	capacity, r := capacityRange(in.Claim)
	if r != nil {
		return nil, r
	}
	parameters, fsType, r := splitParameters(in.Class.Parameters)
	if r != nil {
		return nil, r
	}
	topology, r := topologyRequirement(in.Class.AllowedTopologies, in.Topology)
	if r != nil {
		return nil, r
	}
	plan := &Plan{
		ClaimNamespace: in.Claim.Namespace,
		ClaimName:      in.Claim.Name,
		ClaimUID:       in.Claim.UID,
		ClassName:      in.Class.Name,
		FSType:         fsType,
		VolumeMode:     corev1.PersistentVolumeFilesystem,
		AccessModes:    slices.Clone(in.Claim.Spec.AccessModes),
		MountOptions:   slices.Clone(in.Class.MountOptions),
		ReclaimPolicy:  corev1.PersistentVolumeReclaimDelete,
	}
	if in.Claim.Spec.VolumeMode != nil {
		plan.VolumeMode = *in.Claim.Spec.VolumeMode
	}
	if in.Class.ReclaimPolicy != nil {
		plan.ReclaimPolicy = *in.Class.ReclaimPolicy
	}
	if plan.VolumeMode == corev1.PersistentVolumeBlock {
		plan.FSType, plan.MountOptions = "", nil
	}
	capabilities, r := volumeCapabilities(plan, in.SingleNodeMultiWriter)
	if r != nil {
		return nil, r
	}
	name := VolumeName(in.Claim.UID)
	parameters[paramClaimName] = in.Claim.Name
	parameters[paramClaimNamespace] = in.Claim.Namespace
	parameters[paramVolumeName] = name
	plan.Request = &csi.CreateVolumeRequest{
		Name:                      name,
		CapacityRange:             capacity,
		VolumeCapabilities:        capabilities,
		Parameters:                parameters,
		AccessibilityRequirements: topology,
	}
	return plan, nil
}

// CheckClaim refuses what no provisioning of ours can give a claim, whatever its class. Nil means no objection.
func CheckClaim(claim *corev1.PersistentVolumeClaim) *Refusal {
	spec := &claim.Spec
	switch {
	case spec.Selector != nil:
		return refuse("spec.selector", "a claim with a selector can only be bound to an existing PersistentVolume, "+
			"never be provisioned; remove the selector, or create a PersistentVolume with these labels")
	case spec.DataSource != nil:
		return refuse("spec.dataSource", "a volume made from %s %q is not supported; create the claim without a data "+
			"source and copy the data", spec.DataSource.Kind, spec.DataSource.Name)
	case spec.DataSourceRef != nil:
		return refuse("spec.dataSourceRef", "a volume made from %s %q is not supported; create the claim without a "+
			"data source and copy the data", spec.DataSourceRef.Kind, spec.DataSourceRef.Name)
	case spec.VolumeAttributesClassName != nil && *spec.VolumeAttributesClassName != "":
		return refuse("spec.volumeAttributesClassName", "the driver can not modify volumes, so %q has no effect on it; "+
			"remove the field", *spec.VolumeAttributesClassName)
	}
	_, r := capacityRange(claim)
	return r
}

// capacityRange turns the claim's request and limit into bytes. Fractions of a byte are rounded up.
func capacityRange(claim *corev1.PersistentVolumeClaim) (*csi.CapacityRange, *Refusal) {
	request, found := claim.Spec.Resources.Requests[corev1.ResourceStorage]
	if !found || request.Sign() <= 0 {
		return nil, refuse("spec.resources.requests.storage", "a size above zero is required, such as 1Gi; got %q",
			request.String())
	}
	required, r := wholeBytes("spec.resources.requests.storage", request)
	if r != nil {
		return nil, r
	}
	limit, found := claim.Spec.Resources.Limits[corev1.ResourceStorage]
	if !found {
		return &csi.CapacityRange{RequiredBytes: required}, nil
	}
	limitBytes, r := wholeBytes("spec.resources.limits.storage", limit)
	if r != nil {
		return nil, r
	}
	if limitBytes < required {
		return nil, refuse("spec.resources.limits.storage", "the limit %s is below the request %s; raise the limit or "+
			"leave it out", limit.String(), request.String())
	}
	return &csi.CapacityRange{RequiredBytes: required, LimitBytes: limitBytes}, nil
}

func wholeBytes(field string, q resource.Quantity) (int64, *Refusal) {
	// A Quantity holds no more than this: whatever was written, a larger size has been cut to it.
	if q.Value() == math.MaxInt64 {
		return 0, refuse(field, "the size must be below 8Ei, the most that a volume can ever have")
	}
	return q.Value(), nil
}

// splitParameters parts the class's parameters into the driver's and the provisioner's own.
func splitParameters(in map[string]string) (driver map[string]string, fsType string, r *Refusal) {
	driver = make(map[string]string, len(in)+3)
	for _, key := range slices.Sorted(maps.Keys(in)) {
		reserved, own := strings.CutPrefix(key, paramPrefix)
		switch {
		case !own:
			driver[key] = in[key]
		case key == paramFSType:
			fsType = in[key]
		case strings.HasSuffix(reserved, "secret-name"), strings.HasSuffix(reserved, "secret-namespace"):
			return nil, "", refuse("parameters["+key+"]", "secrets for the driver are not supported yet; "+
				"recreate the StorageClass without this parameter")
		default:
			return nil, "", refuse("parameters["+key+"]", "unknown parameter in the reserved namespace %s; "+
				"allowed is %s", paramPrefix, paramFSType)
		}
	}
	return driver, fsType, nil
}
