package config

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/orlop-io/orlop/configsync/payload"
	"github.com/orlop-io/orlop/configsync/source"
	csivolume "github.com/orlop-io/orlop/csi/volume"
)

func TestParseAttributes(t *testing.T) {
	cm := source.Key{Kind: payload.ConfigMap, Namespace: "ns", Name: "cm"}
	secret := source.Key{Kind: payload.Secret, Namespace: "other", Name: "s.x"}
	for name, c := range map[string]struct {
		attributes map[string]string
		want       []SourceSpec
	}{
		"least": {map[string]string{"kind": "ConfigMap", "name": "cm"}, []SourceSpec{{Key: cm}}},
		"the kubelet's": {map[string]string{"kind": "ConfigMap", "name": "cm", "csi.storage.k8s.io/pod.uid": "x", "csi.storage.k8s.io/new": ""},
			[]SourceSpec{{Key: cm}}},
		"all": {map[string]string{"kind": "Secret", "name": "s.x", "namespace": "other", "optional": "true", "defaultMode": "0400",
			"uid": "0", "gid": "2147483647", "items": `[{"key": "a.b", "path": "x//y", "mode": 256, "uid": 1, "gid": 2}]`},
			[]SourceSpec{{Key: secret, Optional: true, Mode: new(int32(0o400)), UID: new(int64(0)), GID: new(int64(2147483647)),
				Items: []payload.Item{{Key: "a.b", Path: "x/y", Mode: new(int32(0o400)), UID: new(int64(1)), GID: new(int64(2))}}}}},
		"modes": {map[string]string{"kind": "ConfigMap", "name": "cm", "defaultMode": "0o640", "optional": "false",
			"items": "- {key: a, mode: 0400}\n- {key: b, mode: '0400'}\n- {key: c, mode: 400}\n- {key: d, mode: \"777\"}\n- {key: e, mode: null}"},
			[]SourceSpec{{Key: cm, Mode: new(int32(0o640)), Items: []payload.Item{
				{Key: "a", Path: "a", Mode: new(int32(0o400))}, {Key: "b", Path: "b", Mode: new(int32(0o400))},
				{Key: "c", Path: "c", Mode: new(int32(400))}, {Key: "d", Path: "d", Mode: new(int32(0o777))}, {Key: "e", Path: "e"}}}}},
		"several": {map[string]string{"defaultMode": "440", "uid": "7", "sources": `
- {kind: ConfigMap, name: cm}
- {kind: Secret, name: s.x, namespace: other, optional: true, defaultMode: 0600, uid: 8, gid: 9, items: [{key: k}]}`},
			[]SourceSpec{{Key: cm, Mode: new(int32(0o440)), UID: new(int64(7))},
				{Key: secret, Optional: true, Mode: new(int32(0o600)), UID: new(int64(8)), GID: new(int64(9)),
					Items: []payload.Item{{Key: "k", Path: "k"}}}}},
	} {
		got, err := ParseAttributes(c.attributes, "ns")
		if err != nil || !reflect.DeepEqual(got.Sources, c.want) {
			t.Errorf("%s: %+v, %v, want %+v", name, got.Sources, err, c.want)
		}
	}
}

// hostile are attributes that must be refused, each with a word of the refusal. ConfigMap cm is asked for where they do
// not say otherwise.
func hostile() map[string]map[string]string {
	all := map[string]map[string]string{}
	add := func(attribute, says string, values ...string) {
		for _, v := range values {
			name := attribute + "=" + v
			all[fmt.Sprintf("%.60q %d", name, len(v))] = map[string]string{attribute: v, "\x00says": says}
		}
	}
	add("kind", "volume attribute kind", "", "configmap", "Pod", "ConfigMap ", "Secret\x00", "ConfigMap,Secret", "*")
	long := strings.Repeat("a", 254)
	add("name", "volume attribute name", "", "..", ".", "../s", "a/b", "a%2fb", "A", "a_b", "-a", "a-", "a b", "a\n", "a\x00", "ä", "*",
		"a?watch=true", "a;rm", "$(id)", "`id`", "a&b", "a#b", long, "a..b", "cm,metadata.namespace=kube-system", "\u202ea")
	add("namespace", "volume attribute namespace", "", ".", "..", "a.b", "a/b", "*", "A", "-", strings.Repeat("a", 64), "kube-system/x",
		"kube-system\x00", "a=b")
	add("optional", "optional", "", "yes", "True", "1", "TRUE", " true", "null")
	add("defaultMode", "octal", "", "8", "0888", "-1", "01000", "0777777777777", "0x1ff", "rw-r--r--", "u+s", "4755", "1777", "2755", " 0400", "0400 ")
	add("uid", "number between 0 and", "", "-1", "root", "1.5", "2147483648", "99999999999999999999", "0x0", "1e3", " 1", "1;2")
	add("gid", "number between 0 and", "-1", "wheel", "4294967295", "")
	add("items", "items", "", "[]", "null", "{}", "key", "[", "[1]", "[[]]", "[{key: k, path: p, mod: 1}]", "[{key: k, key: l}]",
		"[{key: k, uid: -1}]", "[{key: k, gid: 2147483648}]", "[{key: k, uid: root}]", "[{key: [a]}]", strings.Repeat(" ", maxAttribute+1),
		"["+strings.Repeat("{key: k},", maxItems+1)+"]", "&a [{key: k}, *a]", "!!binary aGk=", "- key: k\n- !!python/object:os.system {}")
	add("items", "volume attribute items: want a list in YAML or JSON: error unmarshaling JSON: while decoding JSON: a mode is octal", "[{key: k, mode: 1000}]", "[{key: k, mode: -1}]", "[{key: k, mode: '9'}]", "[{key: k, mode: 04755}]",
		"[{key: k, mode: 1.5}]", "[{key: k, mode: true}]", "[{key: k, mode: [1]}]", "[{key: k, mode: '01777'}]")
	add("items", "items[0].key", "[{}]", "[{key: ''}]", "[{key: .}]", "[{key: ..}]", "[{key: ..data}]", "[{key: a/b}]", `[{"key": "a\u0000"}]`,
		"[{key: '*'}]", "[{key: "+long+"}]", "[{path: p}]", `[{"key": "a\nb"}]`)
	add("items", "items[0].path", "[{key: k, path: /etc/passwd}]", "[{key: k, path: ..}]", "[{key: k, path: a/../b}]", "[{key: k, path: ../x}]",
		"[{key: k, path: ..data}]", "[{key: k, path: ..2026_01_01/x}]", "[{key: k, path: .}]", "[{key: k, path: ./.}]",
		`[{"key": "k", "path": "a\u0000b"}]`, "[{key: k, path: "+strings.Repeat("a", 256)+"}]", "[{key: k, path: "+strings.Repeat("a/", 2100)+"a}]",
		"[{key: k, path: a/..}]", "[{key: k, path: ..data/..}]")
	add("nodePublishSecretRef", "there is no such attribute", "x")
	add("Kind", "there is no such attribute", "ConfigMap")
	add("csi.storage.k8s.io", "there is no such attribute", "x")
	add(strings.Repeat("x", 5000), "there is no such attribute", "x")
	add("sources", "beside it", "[{kind: ConfigMap, name: cm}]")
	return all
}

// Whatever is wrong is refused, before any of it reaches the API server or the disk, in words that name the attribute.
func TestHostileAttributes(t *testing.T) {
	cases := hostile()
	if len(cases) < 100 {
		t.Errorf("only %d cases", len(cases))
	}
	for name, c := range cases {
		attributes := map[string]string{"kind": "ConfigMap", "name": "cm"}
		says := c["\x00says"]
		for k, v := range c {
			if k != "\x00says" {
				attributes[k] = v
			}
		}
		refused(t, name, attributes, says)
	}
	many := strings.Repeat("{kind: ConfigMap, name: cm},", maxSources+1)
	for sources, says := range map[string]string{
		"": "sources", "[]": "at least one", "[{}]": "sources[0].kind", "[{kind: ConfigMap}]": "sources[0].name", "{}": "sources",
		"[{kind: ConfigMap, name: cm}, {kind: Secret, name: s, namespace: ..}]": "sources[1].namespace",
		"[{kind: ConfigMap, name: cm, items: [{key: k, path: ..}]}]":            "sources[0].items[0].path",
		"[{kind: ConfigMap, name: cm, uid: -1}]":                                "sources[0].uid",
		"[{kind: ConfigMap, name: cm, gid: -1}]":                                "sources[0].gid",
		"[{kind: ConfigMap, name: cm, sources: []}]":                            "sources",
		"[{kind: ConfigMap, name: cm, defaultMode: 01000}]":                     "octal",
		"[" + many + "]": "64 are the most",
	} {
		refused(t, sources, map[string]string{"sources": sources}, says)
	}
}

func refused(t *testing.T, name string, attributes map[string]string, says string) {
	t.Helper()
	spec, err := ParseAttributes(attributes, "ns")
	switch {
	case err == nil:
		t.Errorf("%s became %+v", name, spec)
	case !errors.Is(err, csivolume.ErrInvalid) || !strings.Contains(err.Error(), says):
		t.Errorf("%s: %v does not say %q", name, err, says)
	case len(err.Error()) > 800 || strings.ContainsAny(err.Error(), "\x00\u202e"):
		t.Errorf("%s: the error is %d bytes, or would disturb a log: %q", name, len(err.Error()), err)
	}
}

// What is accepted is safe to ask the API server for and to write, whatever was given.
func FuzzParseAttributes(f *testing.F) {
	for _, c := range hostile() {
		for k, v := range c {
			f.Add(k, v, "[{key: k, path: a/b, mode: 0400}]")
		}
	}
	f.Add("sources", "[{kind: Secret, name: s}]", "")
	f.Fuzz(func(t *testing.T, attribute, value, items string) {
		attributes := map[string]string{"kind": "Secret", "name": "s", "items": items, attribute: value}
		if attribute == "sources" {
			attributes = map[string]string{attribute: value}
		}
		spec, err := ParseAttributes(attributes, "ns")
		if err != nil {
			if !errors.Is(err, csivolume.ErrInvalid) {
				t.Errorf("%v is not ErrInvalid", err)
			}
			return
		}
		if len(spec.Sources) == 0 || len(spec.Sources) > maxSources {
			t.Errorf("%d sources", len(spec.Sources))
		}
		described := payload.Volume{DefaultMode: defaultFileMode, Exact: true}
		for _, s := range spec.Sources {
			if strings.ContainsAny(s.Key.Name+s.Key.Namespace, "/ %?*,=\x00\n") || s.Key.Name == "" || s.Key.Namespace == "" {
				t.Errorf("the key is %q", s.Key)
			}
			data := map[string]payload.Content{}
			for _, item := range s.Items {
				data[item.Key] = nil
			}
			described.Sources = append(described.Sources, payload.Source{Items: s.Items, Mode: s.Mode, UID: s.UID, GID: s.GID,
				Object: &payload.Object{Found: true, Data: data}})
		}
		built, err := payload.Build(described)
		if err != nil && !errors.Is(err, payload.ErrConflict) {
			t.Errorf("what was accepted cannot be built: %v", err)
		}
		for path, file := range built.Files {
			if file.Mode > maxMode || strings.HasPrefix(path, "..") || strings.HasPrefix(path, "/") {
				t.Errorf("%q %o", path, file.Mode)
			}
		}
	})
}
