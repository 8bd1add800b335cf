package reference

import (
	"reflect"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/orlop-io/orlop/configsync/payload"
	"github.com/orlop-io/orlop/configsync/source"
)

func configMap(name string) source.Key {
	return source.Key{Kind: payload.ConfigMap, Namespace: "ns", Name: name}
}

func secret(name string) source.Key {
	return source.Key{Kind: payload.Secret, Namespace: "ns", Name: name}
}

func local(name string) corev1.LocalObjectReference { return corev1.LocalObjectReference{Name: name} }

func ptr(b bool) *bool { return &b }

func configMapEnv(name string, optional *bool) corev1.EnvVar {
	return corev1.EnvVar{Name: "V", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{
		LocalObjectReference: local(name), Key: "k", Optional: optional}}}
}

func secretEnv(name string, optional *bool) corev1.EnvVar {
	return corev1.EnvVar{Name: "V", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{
		LocalObjectReference: local(name), Key: "k", Optional: optional}}}
}

func configMapVolume(volume, name string) corev1.Volume {
	return corev1.Volume{Name: volume, VolumeSource: corev1.VolumeSource{
		ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: local(name)}}}
}

func with(source corev1.VolumeSource) corev1.PodSpec {
	return corev1.PodSpec{Volumes: []corev1.Volume{{Name: "v", VolumeSource: source}}}
}

func inline(attributes map[string]string) corev1.PodSpec {
	return with(corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{Driver: InlineDriver, VolumeAttributes: attributes}})
}

func mounting(volume corev1.Volume, mounts ...corev1.VolumeMount) corev1.PodSpec {
	return corev1.PodSpec{Volumes: []corev1.Volume{volume}, Containers: []corev1.Container{{VolumeMounts: mounts}}}
}

func TestOf(t *testing.T) {
	for _, c := range []struct {
		name string
		spec corev1.PodSpec
		want []Reference
	}{
		{"nothing", corev1.PodSpec{}, nil},
		{"env of a key", corev1.PodSpec{Containers: []corev1.Container{{
			Env: []corev1.EnvVar{{Name: "PLAIN", Value: "v"}, configMapEnv("a", nil), secretEnv("b", ptr(true))},
		}}}, []Reference{{configMap("a"), Env, false}, {secret("b"), Env, true}}},
		{"other sources of env", corev1.PodSpec{Containers: []corev1.Container{{Env: []corev1.EnvVar{{Name: "IP",
			ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "status.podIP"}}}}}}}, nil},
		{"envFrom", corev1.PodSpec{Containers: []corev1.Container{{EnvFrom: []corev1.EnvFromSource{
			{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: local("a"), Optional: ptr(true)}},
			{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: local("b"), Optional: ptr(false)}},
		}}}}, []Reference{{configMap("a"), Env, true}, {secret("b"), Env, false}}},
		{"init container", corev1.PodSpec{InitContainers: []corev1.Container{{Env: []corev1.EnvVar{secretEnv("s", nil)}}}},
			[]Reference{{secret("s"), Env, false}}},
		{"ephemeral container", corev1.PodSpec{EphemeralContainers: []corev1.EphemeralContainer{{
			EphemeralContainerCommon: corev1.EphemeralContainerCommon{Env: []corev1.EnvVar{secretEnv("s", nil)}}}}},
			[]Reference{{secret("s"), Env, false}}},
		{"configMap volume that nobody mounts", with(configMapVolume("v", "a").VolumeSource),
			[]Reference{{configMap("a"), Volume, false}}},
		{"configMap volume", mounting(configMapVolume("v", "a"), corev1.VolumeMount{Name: "v"}),
			[]Reference{{configMap("a"), Volume | Whole, false}}},
		{"subPath", mounting(configMapVolume("v", "a"), corev1.VolumeMount{Name: "v", SubPath: "f"}),
			[]Reference{{configMap("a"), Volume | SubPath, false}}},
		{"subPathExpr", mounting(configMapVolume("v", "a"), corev1.VolumeMount{Name: "v", SubPathExpr: "$(N)"}),
			[]Reference{{configMap("a"), Volume | SubPath, false}}},
		{"subPath beside the whole volume", mounting(configMapVolume("v", "a"), corev1.VolumeMount{Name: "v", SubPath: "f"},
			corev1.VolumeMount{Name: "v"}), []Reference{{configMap("a"), Volume | SubPath | Whole, false}}},
		{"subPath of another volume", mounting(configMapVolume("v", "a"), corev1.VolumeMount{Name: "w", SubPath: "f"}),
			[]Reference{{configMap("a"), Volume, false}}},
		{"secret volume", with(corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "b", Optional: ptr(true)}}),
			[]Reference{{secret("b"), Volume, true}}},
		{"projected volume, mounted by subPath", mounting(corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{
			Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
				{Secret: &corev1.SecretProjection{LocalObjectReference: local("b")}},
				{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: local("a"), Optional: ptr(true)}},
				{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token"}},
			}}}}, corev1.VolumeMount{Name: "v", SubPath: "f"}),
			[]Reference{{configMap("a"), Volume | SubPath, true}, {secret("b"), Volume | SubPath, false}}},
		{"pull secret", corev1.PodSpec{ImagePullSecrets: []corev1.LocalObjectReference{local("p")}},
			[]Reference{{secret("p"), PullSecret, true}}},
		{"pull secret that is also in the environment", corev1.PodSpec{
			ImagePullSecrets: []corev1.LocalObjectReference{local("p")},
			Containers:       []corev1.Container{{Env: []corev1.EnvVar{secretEnv("p", nil)}}},
		}, []Reference{{secret("p"), PullSecret | Env, false}}},
		{"optional in one place, needed in another", corev1.PodSpec{Containers: []corev1.Container{
			{Env: []corev1.EnvVar{configMapEnv("a", nil)}}, {Env: []corev1.EnvVar{configMapEnv("a", ptr(true))}},
		}}, []Reference{{configMap("a"), Env, false}}},
		{"one name, two kinds", corev1.PodSpec{Containers: []corev1.Container{
			{Env: []corev1.EnvVar{secretEnv("a", nil), configMapEnv("a", nil)}},
		}}, []Reference{{configMap("a"), Env, false}, {secret("a"), Env, false}}},
		{"no name", corev1.PodSpec{
			ImagePullSecrets: []corev1.LocalObjectReference{{}},
			Containers:       []corev1.Container{{Env: []corev1.EnvVar{configMapEnv("", nil)}}},
			Volumes:          []corev1.Volume{configMapVolume("v", "")},
		}, nil},
		{"inline volume", inline(map[string]string{InlineKind: "ConfigMap", InlineName: "a"}),
			[]Reference{{configMap("a"), Volume, false}}},
		{"inline volume of another namespace", inline(map[string]string{
			InlineKind: "secret", InlineName: "b", InlineNamespace: "shared", InlineOptional: "true"}),
			[]Reference{{source.Key{Kind: payload.Secret, Namespace: "shared", Name: "b"}, Volume, true}}},
		{"inline volume of several", inline(map[string]string{InlineSources: `
- {kind: ConfigMap, name: a, optional: true, items: [{key: k, mode: 0400}]}
- {kind: Secret, name: b, namespace: shared, optional: "true"}
- {kind: Node, name: c}`}),
			[]Reference{{configMap("a"), Volume, true}, {source.Key{Kind: payload.Secret, Namespace: "shared", Name: "b"}, Volume, false}}},
		{"inline volume of several, in JSON", inline(map[string]string{InlineSources: `[{"kind":"Secret","name":"b"}]`}),
			[]Reference{{secret("b"), Volume, false}}},
		{"inline volume of a list that is none", inline(map[string]string{InlineSources: "kind: ConfigMap"}), nil},
		{"inline volume of no kind", inline(map[string]string{InlineName: "a"}), nil},
		{"inline volume of no name", inline(map[string]string{InlineKind: "ConfigMap"}), nil},
		{"another driver with the same attributes", with(corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{
			Driver: "example.com", VolumeAttributes: map[string]string{InlineKind: "ConfigMap", InlineName: "a"}}}), nil},
		{"azureFile", with(corev1.VolumeSource{AzureFile: &corev1.AzureFileVolumeSource{SecretName: "s"}}),
			[]Reference{{secret("s"), Other, false}}},
		{"a driver's secret of no name", with(corev1.VolumeSource{RBD: &corev1.RBDVolumeSource{}}), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := c.spec.DeepCopy()
			if got := Of("ns", &c.spec); !slices.Equal(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
			if !reflect.DeepEqual(before, &c.spec) {
				t.Error("the spec was changed")
			}
		})
	}
}

// TestEveryVolumeSecret finds by reflection every type of volume that refers to a Secret by a LocalObjectReference, so
// that a new one of the API's is not missed.
func TestEveryVolumeSecret(t *testing.T) {
	reference := reflect.TypeFor[*corev1.LocalObjectReference]()
	volumes := reflect.TypeFor[corev1.VolumeSource]()
	found := 0
	for i := range volumes.NumField() {
		kind := volumes.Field(i)
		for j := range kind.Type.Elem().NumField() {
			if kind.Type.Elem().Field(j).Type != reference {
				continue
			}
			found++
			var v corev1.VolumeSource
			value := reflect.New(kind.Type.Elem())
			value.Elem().Field(j).Set(reflect.ValueOf(&corev1.LocalObjectReference{Name: "s"}))
			reflect.ValueOf(&v).Elem().Field(i).Set(value)
			spec := with(v)
			if got, want := Of("ns", &spec), []Reference{{secret("s"), Other, false}}; !slices.Equal(got, want) {
				t.Errorf("%s.%s: got %v, want %v", kind.Name, kind.Type.Elem().Field(j).Name, got, want)
			}
		}
	}
	if found < 8 {
		t.Errorf("found %d types of volumes with a secret, expected 8 or more: the test looks in the wrong place", found)
	}
}

func TestUseString(t *testing.T) {
	for use, want := range map[Use]string{
		0: "", Env: "env", Volume | SubPath: "volume, subPath", PullSecret | Other: "pull secret, other", Whole: "whole",
	} {
		if got := use.String(); got != want {
			t.Errorf("%d: %q, want %q", use, got, want)
		}
	}
}
