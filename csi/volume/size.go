package volume

import (
	"fmt"
	"strconv"
)

// SizeRange is a wish for a capacity in bytes: at least Required, at most Limit. Zero means that nothing was asked.
type SizeRange struct {
	Required, Limit int64
}

// Validate reports a range that means nothing, as ErrInvalid for a malformed one (section "CreateVolume" of the CSI
// specification).
func (r SizeRange) Validate() error {
	switch {
	case r.Required < 0 || r.Limit < 0:
		return fmt.Errorf("%w: a size is negative (required %d, limit %d)", ErrInvalid, r.Required, r.Limit)
	case r.Limit != 0 && r.Limit < r.Required:
		return fmt.Errorf("%w: the required size %s exceeds the limit %s", ErrInvalid, Bytes(r.Required), Bytes(r.Limit))
	}
	return nil
}

// Contains reports whether a volume of that capacity satisfies the range.
func (r SizeRange) Contains(capacity int64) bool {
	return capacity >= r.Required && (r.Limit == 0 || capacity <= r.Limit)
}

// SizeRule is what a backend can make, in bytes.
type SizeRule struct {
	// Default is the size when nothing was asked.
	Default int64
	// Min and Max bound every volume.
	Min, Max int64
	// Multiple divides every size; at least 1.
	Multiple int64
}

// Choose returns the smallest capacity that satisfies both the range and the rule, the default when the range asks for
// nothing. It fails with ErrInvalid on a malformed range and with ErrOutOfRange, naming the sizes, when there is none.
func (s SizeRule) Choose(r SizeRange) (int64, error) {
	if err := r.Validate(); err != nil {
		return 0, err
	}
	if r.Required > s.Max {
		return 0, fmt.Errorf("%w: %s was asked for and a volume can have at most %s",
			ErrOutOfRange, Bytes(r.Required), Bytes(s.Max))
	}
	if r.Limit != 0 && r.Limit < s.Min {
		return 0, fmt.Errorf("%w: at most %s was asked for and a volume has at least %s",
			ErrOutOfRange, Bytes(r.Limit), Bytes(s.Min))
	}
	size := max(r.Required, s.Min)
	if r.Required == 0 {
		size = s.Default
		if r.Limit != 0 {
			size = min(size, r.Limit/s.Multiple*s.Multiple)
		}
	}
	size = (size + s.Multiple - 1) / s.Multiple * s.Multiple
	if !r.Contains(size) || size < s.Min || size > s.Max {
		return 0, fmt.Errorf("%w: no multiple of %d bytes lies between %d and %d bytes",
			ErrOutOfRange, s.Multiple, max(r.Required, s.Min), r.Limit)
	}
	return size, nil
}

// Bytes writes a size for people: exactly, in the largest binary unit that divides it, as Kubernetes quantities are
// written, or in bytes.
func Bytes(n int64) string {
	units := []string{"", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"}
	i := 0
	for n != 0 && n%1024 == 0 && i < len(units)-1 {
		n /= 1024
		i++
	}
	s := strconv.FormatInt(n, 10) + units[i]
	if i == 0 {
		s += " bytes"
	}
	return s
}
