package rollout

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/orlop-io/orlop/configsync/payload"
	"github.com/orlop-io/orlop/configsync/reference"
	"github.com/orlop-io/orlop/configsync/source"
)

func configMap(name string) source.Key {
	return source.Key{Kind: payload.ConfigMap, Namespace: "ns", Name: name}
}

func secret(name string) source.Key {
	return source.Key{Kind: payload.Secret, Namespace: "ns", Name: name}
}

func from(annotations map[string]string) lookup {
	return func(name string) (string, bool) {
		v, ok := annotations[name]
		return v, ok
	}
}

// references are what the pods of every case use.
var references = []reference.Reference{
	{Key: configMap("a"), Uses: reference.Env},
	{Key: configMap("app-b"), Uses: reference.Volume | reference.SubPath, Optional: true},
	{Key: secret("s"), Uses: reference.Volume | reference.Whole},
	{Key: secret("pull"), Uses: reference.PullSecret, Optional: true},
	{Key: secret("driver"), Uses: reference.Other},
	{Key: source.Key{Kind: payload.Secret, Namespace: "other", Name: "s"}, Uses: reference.Volume},
}

func TestFollow(t *testing.T) {
	for _, c := range []struct {
		name        string
		annotations map[string]string
		want        string // entries, with ? for optional and ! for tagged
	}{
		{"nothing", nil, ""},
		{"another's", map[string]string{"example.com/rollout": "true"}, ""},
		{"off", map[string]string{AnnotationRollout: "false"}, ""},
		{"on", map[string]string{AnnotationRollout: "true"}, "ConfigMap/a ConfigMap/app-b? Secret/s"},
		{"settings without rollout", map[string]string{AnnotationOnly: "configmap/a"}, ""},
		{"only", map[string]string{AnnotationRollout: "true", AnnotationOnly: "configmap/a, Secret/pull,secret/elsewhere"},
			"ConfigMap/a Secret/elsewhere? Secret/pull?"},
		{"ignore", map[string]string{AnnotationRollout: "true", AnnotationIgnore: "configmap/a,secret/unused"},
			"ConfigMap/app-b? Secret/s"},
		{"only and ignore", map[string]string{AnnotationRollout: "true", AnnotationOnly: "configmap/a,secret/s",
			AnnotationIgnore: "secret/s"}, "ConfigMap/a"},
		{"Reloader's auto", map[string]string{reloaderAuto: "true"}, "ConfigMap/a ConfigMap/app-b? Secret/s"},
		{"auto, and off", map[string]string{reloaderAuto: "true", AnnotationRollout: "false"}, ""},
		{"auto: false", map[string]string{reloaderAuto: "false"}, ""},
		{"auto of ConfigMaps", map[string]string{reloaderConfigMapAuto: "true"}, "ConfigMap/a ConfigMap/app-b?"},
		{"auto of Secrets", map[string]string{reloaderSecretAuto: "true"}, "Secret/s"},
		{"reload", map[string]string{reloaderConfigMaps: "a", reloaderSecrets: " pull, s ,,"},
			"ConfigMap/a Secret/pull? Secret/s"},
		{"reload of what no pod uses", map[string]string{reloaderConfigMaps: "elsewhere"}, "ConfigMap/elsewhere?"},
		{"reload with auto: false", map[string]string{reloaderAuto: "false", reloaderConfigMaps: "a"}, "ConfigMap/a"},
		{"reload by pattern", map[string]string{reloaderConfigMaps: "app-.*", reloaderSecrets: "(a|b)"}, "ConfigMap/app-b?"},
		{"a dot is a dot", map[string]string{reloaderConfigMaps: "app.b"}, "ConfigMap/app.b?"},
		{"exclude", map[string]string{reloaderAuto: "true", reloaderNoConfigMaps: "a,x", reloaderNoSecrets: "s"}, "ConfigMap/app-b?"},
		{"search", map[string]string{reloaderSearch: "true"}, "ConfigMap/a! ConfigMap/app-b?! Secret/s!"},
		{"search with auto", map[string]string{reloaderSearch: "true", reloaderSecretAuto: "true"},
			"ConfigMap/a! ConfigMap/app-b?! Secret/s"},
		{"ours ignores for Reloader's", map[string]string{reloaderAuto: "true", AnnotationIgnore: "secret/s,configmap/a"},
			"ConfigMap/app-b?"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := parse("ns", from(c.annotations), true)
			if err != nil {
				t.Fatal(err)
			}
			wanted := s.follow("ns", references)
			var got []string
			for _, key := range slices.SortedFunc(maps.Keys(wanted), compareKeys) {
				entry := entryOf(key)
				if wanted[key].optional {
					entry += "?"
				}
				if wanted[key].tagged {
					entry += "!"
				}
				got = append(got, entry)
			}
			if got := strings.Join(got, " "); got != c.want {
				t.Errorf("follows %q, want %q", got, c.want)
			}
			if s.followed() != (c.want != "") {
				t.Errorf("followed: %t", s.followed())
			}
			if s, err := parse("ns", from(c.annotations), false); err != nil || s.followed() && c.annotations[AnnotationRollout] != "true" {
				t.Errorf("Reloader's annotations count without being asked for (%v)", err)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	for annotation, values := range map[string][]string{
		AnnotationRollout: {"", "yes", "True", "1"},
		AnnotationOnly: {"", "a", "pod/a", "configmap/", "configmap/A_b", "configmap/a,", "configmap/ns/a", "secret/../a",
			"configmap/a secret/b"},
		AnnotationIgnore:      {"x", "secret/\x00"},
		AnnotationWindow:      {"", "5", "-1s", "2h", "soon"},
		AnnotationPaused:      {"", "on"},
		reloaderAuto:          {"yes"},
		reloaderConfigMapAuto: {"1"},
		reloaderSecretAuto:    {""},
		reloaderSearch:        {"maybe"},
		reloaderConfigMaps:    {"(", "a,[b"},
		reloaderSecrets:       {"*", strings.Repeat("(", 5000)},
	} {
		for _, value := range values {
			annotations := map[string]string{AnnotationRollout: "true", annotation: value}
			_, err := parse("ns", from(annotations), true)
			var invalid *InvalidError
			if !errors.As(err, &invalid) || invalid.Annotation != annotation {
				t.Errorf("%s: %.80q: error %v", annotation, value, err)
				continue
			}
			if m := err.Error(); !strings.Contains(m, annotation) || len(m) > 300 {
				t.Errorf("%s: %.80q: message %q", annotation, value, m)
			}
			annotations[AnnotationRollout] = "false"
			if _, err := parse("ns", from(annotations), true); err != nil && annotation != AnnotationRollout {
				t.Errorf("%s: %.80q: error %v although the workload is not followed", annotation, value, err)
			}
		}
	}
}

func TestParseWindow(t *testing.T) {
	for value, want := range map[string]time.Duration{"0s": 0, "1m30s": 90 * time.Second, "1h": time.Hour} {
		s, err := parse("ns", from(map[string]string{AnnotationRollout: "true", AnnotationWindow: value}), true)
		if err != nil || s.window != want {
			t.Errorf("%q: %s, %v", value, s.window, err)
		}
	}
	if s, _ := parse("ns", from(map[string]string{AnnotationRollout: "true"}), true); s.window >= 0 {
		t.Errorf("no annotation: a window of %s", s.window)
	}
}
