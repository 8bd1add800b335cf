package volume

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// MaxIDLength is the length in bytes that no encoded ID exceeds, as the CSI specification asks (section "Size
// Limits").
const MaxIDLength = 128

// keyLength is the length in bytes of the digest in an ID before it is encoded: 160 bits, so that no two names collide.
const keyLength = 20

// idVersion begins every encoded ID of this layout.
const idVersion = "v1"

// ID names a volume for good. It derives from the name in the creating request and from nothing else a user supplied:
// it carries no path and no policy. IDs are comparable; the zero ID names no volume.
type ID struct {
	Kind Kind
	key  [keyLength]byte
}

// letters is how kinds are written in an encoded ID. A letter is never given to another kind.
var letters = map[Kind]string{KindDir: "d", KindLoop: "l"}

// NewID returns the ID of the volume of that kind that a request of that name makes.
func NewID(kind Kind, name string) ID {
	sum := sha256.Sum256([]byte(name))
	id := ID{Kind: kind}
	copy(id.key[:], sum[:])
	return id
}

// Key is the digest of the volume's name, in hexadecimal: the same for all kinds, and safe as a file name. Operations
// on one volume, its creation included, have the same key.
func (id ID) Key() string { return hex.EncodeToString(id.key[:]) }

// String encodes the ID: version, letter of the kind and key, as in "v1-l-2fd4e1c67a2d28fced849ee1bb76e7391b93eb12".
func (id ID) String() string {
	return idVersion + "-" + letters[id.Kind] + "-" + id.Key()
}

// ParseID decodes what String encoded. It accepts nothing else, so that equal volumes have equal strings; a string that
// is no ID fails with ErrNotFound, because no volume has it.
func ParseID(s string) (ID, error) {
	foreign := func(why string) (ID, error) {
		if len(s) > MaxIDLength {
			s = s[:MaxIDLength] + "..."
		}
		return ID{}, fmt.Errorf("volume %q: %w: no ID of this driver: %s", s, ErrNotFound, why)
	}
	version, rest, _ := strings.Cut(s, "-")
	if version != idVersion {
		return foreign("it does not begin with " + idVersion + "-")
	}
	letter, key, _ := strings.Cut(rest, "-")
	id := ID{}
	for kind, l := range letters {
		if l == letter {
			id.Kind = kind
		}
	}
	if id.Kind == "" {
		return foreign("unknown kind")
	}
	if !IsKey(key) {
		return foreign("malformed key")
	}
	if _, err := hex.Decode(id.key[:], []byte(key)); err != nil {
		return foreign("malformed key")
	}
	return id, nil
}

// IsKey reports whether s is what an ID's Key can be.
func IsKey(s string) bool {
	return len(s) == hex.EncodedLen(keyLength) && strings.Trim(s, "0123456789abcdef") == ""
}
