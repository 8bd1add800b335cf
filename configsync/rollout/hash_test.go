package rollout

import (
	"bytes"
	"testing"

	"github.com/orlop-io/orlop/configsync/payload"
)

func holding(kind payload.Kind, name string, data, binary map[string]payload.Content) *payload.Object {
	return &payload.Object{Version: payload.Version{Kind: kind, Namespace: "ns", Name: name, UID: "u", ResourceVersion: "1"},
		Found: true, Data: data, BinaryData: binary}
}

func content(pairs ...string) map[string]payload.Content {
	m := map[string]payload.Content{}
	for i := 0; i+1 < len(pairs); i += 2 {
		m[pairs[i]] = payload.Content(pairs[i+1])
	}
	return m
}

// TestHashTellsApart: no two of these have the same hash, under one key or two.
func TestHashTellsApart(t *testing.T) {
	one, two := newHasher(bytes.Repeat([]byte{1}, keySize)), newHasher(bytes.Repeat([]byte{2}, keySize))
	if one.id == two.id {
		t.Error("two keys have one ID")
	}
	seen := map[string]int{}
	for i, o := range []*payload.Object{
		holding(payload.ConfigMap, "a", nil, nil),
		holding(payload.Secret, "a", nil, nil),
		holding(payload.ConfigMap, "b", nil, nil),
		holding(payload.ConfigMap, "a", content("k", "v"), nil),
		holding(payload.ConfigMap, "a", nil, content("k", "v")),
		holding(payload.ConfigMap, "a", content("kv", ""), nil),
		holding(payload.ConfigMap, "a", content("", "kv"), nil),
		holding(payload.ConfigMap, "a", content("k", "v", "l", "w"), nil),
		holding(payload.ConfigMap, "a", content("k", "v"), content("l", "w")),
		holding(payload.ConfigMap, "a", content("k", "v\x00\x00\x00\x00\x00\x00\x00\x01lw"), nil),
		holding(payload.ConfigMap, "a", content("k", "w", "l", "v"), nil),
		{Version: payload.Version{Kind: payload.ConfigMap, Namespace: "ns", Name: "a"}},
	} {
		for _, h := range []*hasher{one, two} {
			s := h.object(o)
			if other, ok := seen[s]; ok && s != absentSum {
				t.Errorf("objects %d and %d have one hash", other, i)
			}
			if o.Found == (s == absentSum) {
				t.Errorf("object %d: hash %q", i, s)
			}
			seen[s] = i
		}
	}
}

// TestHashIsOfContent: what is not content does not matter.
func TestHashIsOfContent(t *testing.T) {
	h := newHasher(bytes.Repeat([]byte{1}, keySize))
	o := holding(payload.Secret, "a", content("k", "v", "l", "w", "m", "x"), nil)
	again := holding(payload.Secret, "a", content("m", "x", "l", "w", "k", "v"), content())
	again.UID, again.ResourceVersion, again.Annotations = "other", "2", map[string]string{"a": "b"}
	if h.object(o) != h.object(again) {
		t.Error("one content has two hashes")
	}
	if a, b := map[string]string{"x": "1", "y": "2"}, map[string]string{"y": "2", "x": "1"}; h.baseline(a) != h.baseline(b) {
		t.Error("one baseline has two hashes")
	}
	if h.baseline(map[string]string{"x": "1"}) == h.baseline(map[string]string{"x": "2"}) {
		t.Error("two baselines have one hash")
	}
}
