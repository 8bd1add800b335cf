package volume

import "errors"

// The errors of this package's interfaces, to be tested with errors.Is. Everything that reaches a caller wraps one of
// them or a context's error; anything else is a defect of the implementation or of the machine under it and becomes
// Internal.
var (
	// ErrInvalid: the request can be satisfied nowhere and never; what is wrong with it stands in the message.
	ErrInvalid = errors.New("invalid request")

	// ErrNotFound: there is no such volume, or it is not at the path that was given.
	ErrNotFound = errors.New("not found")

	// ErrIncompatible: it exists already, but not as it was asked for.
	ErrIncompatible = errors.New("exists and is incompatible")

	// ErrInUse: the volume is staged or published in a way that forbids the operation.
	ErrInUse = errors.New("in use")

	// ErrOutOfRange: no volume can have the size that was asked for.
	ErrOutOfRange = errors.New("size out of range")

	// ErrExhausted: this pool has no room; another one may have.
	ErrExhausted = errors.New("not enough room")

	// ErrBusy: another operation on the same volume is under way; try again later.
	ErrBusy = errors.New("another operation on the volume is under way")

	// ErrNotStaged: the volume has to be staged before this operation.
	ErrNotStaged = errors.New("not staged")

	// ErrForbidden: whoever uses the volume may not; the message says what to grant.
	ErrForbidden = errors.New("permission denied")

	// ErrNotReady: something else has to be there first; the message says what.
	ErrNotReady = errors.New("not ready")

	// ErrUnavailable: what is needed from elsewhere cannot be reached at the moment.
	ErrUnavailable = errors.New("unavailable")
)
