package payload

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

func ptr[T any](v T) *T { return &v }

func content(kv ...string) map[string]Content {
	m := map[string]Content{}
	for i := 0; i < len(kv); i += 2 {
		m[kv[i]] = Content(kv[i+1])
	}
	return m
}

func configMap(kv ...string) *Object {
	return &Object{Version: Version{Kind: ConfigMap, Namespace: "ns", Name: "cm", UID: "u1", ResourceVersion: "7"},
		Found: true, Data: content(kv...)}
}

func secret(kv ...string) *Object {
	return &Object{Version: Version{Kind: Secret, Namespace: "ns", Name: "s"}, Found: true, Data: content(kv...)}
}

func absent(kind Kind) *Object {
	return &Object{Version: Version{Kind: kind, Namespace: "ns", Name: "gone"}}
}

// describe is a payload as text, so that a table can say what it expects.
func describe(p Payload) []string {
	files := []string{}
	for _, path := range p.Paths() {
		f := p.Files[path]
		files = append(files, fmt.Sprintf("%s=%s %04o %d:%d", path, string(f.Data), f.Mode, f.UID, f.GID))
	}
	return files
}

func TestBuild(t *testing.T) {
	binary := configMap("a", "text", "both", "data")
	binary.BinaryData = content("b", "\x00\xff", "both", "binary")
	for _, tt := range []struct {
		name string
		in   Volume
		want []string
	}{
		{"nothing", Volume{DefaultMode: 0o644}, []string{}},
		{"whole ConfigMap", Volume{DefaultMode: 0o644, Sources: []Source{{Object: configMap("b", "2", "a", "1")}}},
			[]string{"a=1 0644 -1:-1", "b=2 0644 -1:-1"}},
		{"binaryData beside data, and over it without items", Volume{DefaultMode: 0o644, Sources: []Source{{Object: binary}}},
			[]string{"a=text 0644 -1:-1", "b=\x00\xff 0644 -1:-1", "both=binary 0644 -1:-1"}},
		{"data over binaryData with items", Volume{DefaultMode: 0o644, Sources: []Source{
			{Object: binary, Items: []Item{{Key: "both", Path: "x"}, {Key: "b", Path: "y"}}}}},
			[]string{"x=data 0644 -1:-1", "y=\x00\xff 0644 -1:-1"}},
		{"items leave the other keys out", Volume{DefaultMode: 0o600, Sources: []Source{
			{Object: secret("a", "1", "b", "2"), Items: []Item{{Key: "b", Path: "deep/er/b"}}}}},
			[]string{"deep/er/b=2 0600 -1:-1"}},
		{"one key under two paths", Volume{DefaultMode: 0o600, Sources: []Source{
			{Object: secret("a", "1"), Items: []Item{{Key: "a", Path: "x"}, {Key: "a", Path: "y", Mode: ptr(int32(0o400))}}}}},
			[]string{"x=1 0600 -1:-1", "y=1 0400 -1:-1"}},
		{"#57923: modes are exact to the bit, 0000 and 0777 too", Volume{DefaultMode: 0, Sources: []Source{
			{Object: secret("a", "1", "b", "2"), Items: []Item{{Key: "a", Path: "a"}, {Key: "b", Path: "b", Mode: ptr(int32(0o777))}}}}},
			[]string{"a=1 0000 -1:-1", "b=2 0777 -1:-1"}},
		{"#57923: fsGroup reads every file, 0400 becomes 0440", Volume{DefaultMode: 0o400, FSGroup: ptr(int64(2000)),
			Sources: []Source{{Object: secret("a", "1")}}}, []string{"a=1 0440 -1:2000"}},
		{"#2630: a value has its owner, and fsGroup widens 0600 to 0640", Volume{DefaultMode: 0o644, FSGroup: ptr(int64(5)),
			Sources: []Source{{Values: []Value{{Path: "token", Data: Content("t"), Mode: ptr(int32(0o600)), UID: ptr(int64(1000))}}}}},
			[]string{"token=t 0640 1000:5"}},
		{"#57923: exact modes stay, the default is widened", Volume{DefaultMode: 0o600, Exact: true, FSGroup: ptr(int64(5)), Sources: []Source{
			{Object: secret("a", "1", "b", "2"), Items: []Item{{Key: "a", Path: "a", Mode: ptr(int32(0o400))}, {Key: "b", Path: "b"}}},
			{Object: secret("c", "3"), Mode: ptr(int32(0o600))}}},
			[]string{"a=1 0400 -1:5", "b=2 0640 -1:5", "c=3 0600 -1:5"}},
		{"#2630: owners of sources and items", Volume{DefaultMode: 0o600, FSGroup: ptr(int64(5)), Sources: []Source{
			{Object: secret("a", "1", "b", "2"), UID: ptr(int64(7)), GID: ptr(int64(8)),
				Items: []Item{{Key: "a", Path: "a", UID: ptr(int64(9)), GID: ptr(int64(0))}, {Key: "b", Path: "b"}}},
			{Object: configMap("c", "3"), UID: ptr(int64(0))}}},
			[]string{"a=1 0600 9:0", "b=2 0600 7:8", "c=3 0640 0:5"}},
		{"fsGroup 0 is a group too", Volume{DefaultMode: 0o600, FSGroup: ptr(int64(0)), Sources: []Source{{Object: secret("a", "1")}}},
			[]string{"a=1 0640 -1:0"}},
		{"#30189: an absent optional object has no files", Volume{DefaultMode: 0o644, Sources: []Source{
			{Object: absent(ConfigMap), Optional: true}, {Object: absent(Secret), Optional: true, Items: []Item{{Key: "a", Path: "a"}}}}},
			[]string{}},
		{"#37459: objects of one name in two namespaces", Volume{DefaultMode: 0o644, Sources: []Source{
			{Object: configMap("a", "ours")}, {Object: &Object{Found: true, Data: content("b", "theirs"),
				Version: Version{Kind: ConfigMap, Namespace: "shared", Name: "cm"}}}}},
			[]string{"a=ours 0644 -1:-1", "b=theirs 0644 -1:-1"}},
		{"an absent key of an optional object is left out", Volume{DefaultMode: 0o644, Sources: []Source{
			{Object: configMap("a", "1"), Optional: true, Items: []Item{{Key: "no", Path: "n"}, {Key: "a", Path: "x"}}}}},
			[]string{"x=1 0644 -1:-1"}},
		{"an empty file is a file", Volume{DefaultMode: 0o644, Sources: []Source{{Object: configMap("a", "")}}},
			[]string{"a= 0644 -1:-1"}},
		{"a later source wins", Volume{DefaultMode: 0o644, Sources: []Source{
			{Object: configMap("a", "1", "b", "1")}, {Object: secret("b", "2")},
			{Values: []Value{{Path: "a", Data: Content("3"), Mode: ptr(int32(0o600))}}}}},
			[]string{"a=3 0600 -1:-1", "b=2 0644 -1:-1"}},
		{"a later source wins also where the path is written differently", Volume{DefaultMode: 0o644, Sources: []Source{
			{Object: configMap("a", "1"), Items: []Item{{Key: "a", Path: "d/x"}}},
			{Object: secret("a", "2"), Items: []Item{{Key: "a", Path: "d//./x"}}}}},
			[]string{"d/x=2 0644 -1:-1"}},
		{"a/b and a.b are no conflict", Volume{DefaultMode: 0o644, Sources: []Source{
			{Object: configMap("1", "1", "2", "2"), Items: []Item{{Key: "1", Path: "a/b"}, {Key: "2", Path: "a.b"}}}}},
			[]string{"a.b=2 0644 -1:-1", "a/b=1 0644 -1:-1"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, err := Build(tt.in)
			if err != nil {
				t.Fatal(err)
			}
			if got := describe(p); !reflect.DeepEqual(got, tt.want) {
				t.Errorf("files:\n%q\nwant:\n%q", got, tt.want)
			}
		})
	}
}

// #22368, #24957: whoever acts on a change has to tell one from a write that changed nothing. The same content makes the
// same files whatever its version, and the version is told apart from them.
func TestSameContentSameFiles(t *testing.T) {
	build := func(o *Object) Payload {
		t.Helper()
		p, err := Build(Volume{DefaultMode: 0o644, Sources: []Source{{Object: o}}})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	edited := configMap("a", "1", "b", "2")
	edited.ResourceVersion = "8"
	first, second := build(configMap("a", "1", "b", "2")), build(edited)
	if !reflect.DeepEqual(first.Files, second.Files) {
		t.Errorf("files %q and %q", describe(first), describe(second))
	}
	if reflect.DeepEqual(first.Objects, second.Objects) {
		t.Errorf("both are of %+v", first.Objects)
	}
	if changed := build(configMap("a", "1", "b", "3")); reflect.DeepEqual(first.Files, changed.Files) {
		t.Error("other content makes the same files")
	}
}

func TestBuildVersions(t *testing.T) {
	pod := &Version{Kind: Pod, Namespace: "ns", Name: "p", ResourceVersion: "9"}
	p, err := Build(Volume{Sources: []Source{
		{Object: configMap("a", "1")}, {Object: absent(Secret), Optional: true}, {From: pod, Values: []Value{{Path: "labels"}}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	want := []Version{configMap().Version, *pod}
	if !reflect.DeepEqual(p.Objects, want) {
		t.Errorf("versions %+v, want %+v", p.Objects, want)
	}
}

func TestBuildRefusals(t *testing.T) {
	item := func(path string) []Source {
		return []Source{{Object: configMap("k", "v"), Items: []Item{{Key: "k", Path: path}}}}
	}
	for _, tt := range []struct {
		name string
		in   Volume
		want error
		says []string
	}{
		{"absent object", Volume{Sources: []Source{{Object: absent(Secret)}}}, ErrObjectMissing, []string{"Secret ns/gone"}},
		{"#37459: absent in the other namespace", Volume{Sources: []Source{{Object: &Object{
			Version: Version{Kind: Secret, Namespace: "shared", Name: "cm"}}}}}, ErrObjectMissing, []string{"Secret shared/cm"}},
		{"absent key", Volume{Sources: []Source{{Object: secret("a", "1"), Items: []Item{{Key: "b", Path: "x"}}}}},
			ErrKeyMissing, []string{"Secret ns/s", `"b"`, `"x"`}},
		{"mode over 0777", Volume{DefaultMode: 0o4755, Sources: []Source{{Object: configMap("k", "v")}}}, ErrMode, []string{`"k"`}},
		{"negative mode", Volume{DefaultMode: -1, Sources: []Source{{Object: configMap("k", "v")}}}, ErrMode, nil},
		{"item's mode", Volume{Sources: []Source{{Object: configMap("k", "v"), Items: []Item{{Key: "k", Path: "p", Mode: ptr(int32(0o1000))}}}}},
			ErrMode, []string{"ConfigMap ns/cm", `"k"`, `"p"`}},
		{"path of an item", Volume{Sources: item("../x")}, ErrPathEscapes, []string{`"../x"`}},
		{"key as path", Volume{Sources: []Source{{Object: configMap("../../etc/passwd", "v")}}}, ErrPathEscapes, []string{"ConfigMap ns/cm"}},
		{"file and directory in one source", Volume{Sources: []Source{{Object: configMap("1", "1", "2", "2"),
			Items: []Item{{Key: "1", Path: "a"}, {Key: "2", Path: "a/b"}}}}}, ErrConflict, []string{`key "1"`, `path "a"`}},
		{"file and directory in two sources", Volume{Sources: []Source{
			{Object: configMap("k", "1"), Items: []Item{{Key: "k", Path: "a/b/c"}}},
			{Object: secret("k", "1"), Items: []Item{{Key: "k", Path: "a"}}}}}, ErrConflict, []string{"Secret ns/s"}},
		{"fsGroup", Volume{FSGroup: ptr(int64(-1))}, ErrOwner, nil},
		{"owner of an item", Volume{Sources: []Source{{Object: secret("a", ""), Items: []Item{{Key: "a", Path: "a", UID: ptr(int64(-1))}}}}}, ErrOwner, nil},
		{"group of a source", Volume{Sources: []Source{{Object: secret("a", ""), GID: ptr(int64(1) << 31)}}}, ErrOwner, nil},
		{"fsGroup too large", Volume{FSGroup: ptr(int64(1) << 31)}, ErrOwner, nil},
		{"owner", Volume{Sources: []Source{{Values: []Value{{Path: "t", UID: ptr(int64(-5))}}}}}, ErrOwner, []string{`"t"`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Build(tt.in)
			var typed *Error
			if !errors.Is(err, tt.want) || !errors.As(err, &typed) {
				t.Fatalf("error %v, want an *Error of %v", err, tt.want)
			}
			for _, s := range tt.says {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("%q does not say %s", err, s)
				}
			}
		})
	}
}

func TestContentNeverPrints(t *testing.T) {
	c := Content("hunter2")
	p, err := Build(Volume{Sources: []Source{{Object: secret("password", "hunter2")}}})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(map[string]any{"c": c, "p": p, "o": secret("password", "hunter2")})
	if err != nil {
		t.Fatal(err)
	}
	all := string(raw)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
		all += fmt.Sprintf(verb+verb+verb+verb, c, p, &p, secret("password", "hunter2"))
	}
	all += fmt.Sprint(c, p) + c.String() + (&Error{Key: "password", Err: ErrMode}).Error()
	for _, leaked := range []string{"hunter2", "68756e74657232", "68756E74657232", "104 117", "0x68", "aHVudGVyMg"} {
		if strings.Contains(all, leaked) {
			t.Errorf("%q was printed:\n%s", leaked, all)
		}
	}
}
