package volumes

import (
	"context"
	"errors"
	"fmt"
	"slices"

	authenticationv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/volume"
	"k8s.io/kubernetes/pkg/volume/downwardapi"

	"github.com/orlop-io/orlop/configsync/payload"
)

// credentialMode is upstream's mode of tokens, trust bundles and pod certificates that a user or a group of the pod's
// shall read; the volume's default mode holds where the pod names neither.
const credentialMode int32 = 0o600

// resolve returns the values of a source that is no object: fields of the pod, or what upstream's managers in the
// kubelet provide.
func (mt *mount) resolve(index int, s v1.VolumeProjection, defaultMode int32) (payload.Source, error) {
	r := &mt.request
	mode := defaultMode
	if r.args.FsUser != nil || r.args.FsGroup != nil {
		mode = credentialMode
	}
	credential := func(path string, data []byte) payload.Value {
		return payload.Value{Path: path, Data: data, Mode: &mode, UID: r.args.FsUser}
	}
	switch {
	case s.DownwardAPI != nil:
		return mt.fields(s.DownwardAPI.Items, defaultMode)
	case s.ServiceAccountToken != nil:
		token, err := mt.token(s.ServiceAccountToken)
		if err != nil {
			return payload.Source{}, err
		}
		return payload.Source{Values: []payload.Value{credential(s.ServiceAccountToken.Path, token)}}, nil
	case s.ClusterTrustBundle != nil:
		anchors, err := mt.trustAnchors(s.ClusterTrustBundle)
		if err != nil {
			return payload.Source{}, err
		}
		return payload.Source{Values: []payload.Value{credential(s.ClusterTrustBundle.Path, anchors)}}, nil
	case s.PodCertificate != nil:
		host, err := mt.kubelet()
		if err != nil {
			return payload.Source{}, err
		}
		key, certificates, err := host.GetPodCertificateCredentialBundle(context.Background(), r.pod.Namespace, r.pod.Name,
			string(r.pod.UID), mt.key.volume, index)
		if err != nil {
			return payload.Source{}, err
		}
		var values []payload.Value
		for _, file := range []struct {
			path string
			data []byte
		}{
			{s.PodCertificate.CredentialBundlePath, slices.Concat(key, certificates)},
			{s.PodCertificate.KeyPath, key}, {s.PodCertificate.CertificateChainPath, certificates},
		} {
			if file.path != "" {
				values = append(values, credential(file.path, file.data))
			}
		}
		return payload.Source{Values: values}, nil
	}
	// Upstream makes no file for a source that it does not know.
	return payload.Source{}, nil
}

func (mt *mount) kubelet() (volume.KubeletVolumeHost, error) {
	host, ok := mt.manager.host.(volume.KubeletVolumeHost)
	if !ok {
		return nil, errors.New("trust bundles and pod certificates need a kubelet as host")
	}
	return host, nil
}

// token returns the pod's token from the kubelet's token manager, which keeps and renews it.
func (mt *mount) token(s *v1.ServiceAccountTokenProjection) ([]byte, error) {
	pod := mt.request.pod
	var audiences []string
	if s.Audience != "" {
		audiences = []string{s.Audience}
	}
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		Audiences: audiences, ExpirationSeconds: s.ExpirationSeconds,
		BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
	}}
	answer, err := mt.manager.host.GetServiceAccountTokenFunc()(pod.Namespace, pod.Spec.ServiceAccountName, request)
	if err != nil {
		return nil, err
	}
	return []byte(answer.Status.Token), nil
}

func (mt *mount) trustAnchors(s *v1.ClusterTrustBundleProjection) ([]byte, error) {
	host, err := mt.kubelet()
	if err != nil {
		return nil, err
	}
	switch {
	case s.Name != nil:
		return host.GetTrustAnchorsByName(*s.Name, isTrue(s.Optional))
	case s.SignerName != nil:
		return host.GetTrustAnchorsBySigner(*s.SignerName, s.LabelSelector, isTrue(s.Optional))
	}
	return nil, fmt.Errorf("volume %s: a clusterTrustBundle source needs a name or a signerName", mt.key.volume)
}

// fields returns the files of the downward API, resolved by upstream's code.
func (mt *mount) fields(items []v1.DownwardAPIVolumeFile, defaultMode int32) (payload.Source, error) {
	pod := mt.manager.pods.newest(mt.request.pod)
	files, err := downwardapi.CollectData(items, pod, mt.manager.host, &defaultMode)
	if err != nil {
		return payload.Source{}, err
	}
	// The kubelet updates its copy of a pod in all but the resourceVersion, so that there is none to tell.
	s := payload.Source{From: &payload.Version{Kind: payload.Pod, Namespace: pod.Namespace, Name: pod.Name, UID: string(pod.UID)}}
	for path, file := range files {
		s.Values = append(s.Values, payload.Value{Path: path, Data: file.Data, Mode: &file.Mode})
	}
	return s, nil
}
