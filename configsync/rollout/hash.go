package rollout

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"hash"
	"maps"
	"slices"

	"github.com/orlop-io/orlop/configsync/payload"
)

const (
	// keySize is that of the key, in bytes.
	keySize = 32
	// sumSize is how much of a hash is kept, in bytes: two contents of an object that have the same 96 bits do not occur.
	sumSize = 12
	// idSize is how much tells one key from another.
	idSize = 6
)

// absentSum stands for an object that is not there.
const absentSum = "-"

// hasher makes hashes of content under a key, so that whoever may read workloads cannot find out what is in a Secret by
// trying what may be in it. It may be used by several goroutines.
type hasher struct {
	key []byte
	id  string
}

func newHasher(key []byte) *hasher {
	h := &hasher{key: key}
	mac := h.mac("key ID")
	h.id = base64.RawURLEncoding.EncodeToString(mac.Sum(nil)[:idSize])
	return h
}

// mac begins a hash for one purpose: hashes for different ones have nothing in common.
func (h *hasher) mac(purpose string) hash.Hash {
	mac := hmac.New(sha256.New, h.key)
	field(mac, []byte(purpose))
	return mac
}

// field writes a field so that no two sequences of fields are the same bytes. A hash's Write returns no error.
func field(mac hash.Hash, b []byte) {
	_ = binary.Write(mac, binary.BigEndian, uint64(len(b)))
	_, _ = mac.Write(b)
}

func sum(mac hash.Hash) string { return base64.RawURLEncoding.EncodeToString(mac.Sum(nil)[:sumSize]) }

// object hashes an object's content: what it is called, and its keys and bytes, but neither its version nor its
// annotations and labels. Objects of different names never have the same hash, which would tell that they are equal.
func (h *hasher) object(o *payload.Object) string {
	if !o.Found {
		return absentSum
	}
	mac := h.mac("object")
	for _, s := range []string{string(o.Kind), o.Namespace, o.Name} {
		field(mac, []byte(s))
	}
	for _, data := range []map[string]payload.Content{o.Data, o.BinaryData} {
		_ = binary.Write(mac, binary.BigEndian, uint64(len(data)))
		for _, key := range slices.Sorted(maps.Keys(data)) {
			field(mac, []byte(key))
			field(mac, data[key])
		}
	}
	return sum(mac)
}

// baseline hashes all of a baseline's objects for the pod template.
func (h *hasher) baseline(objects map[string]string) string {
	mac := h.mac("baseline")
	for _, name := range slices.Sorted(maps.Keys(objects)) {
		field(mac, []byte(name))
		field(mac, []byte(objects[name]))
	}
	return sum(mac)
}
