package wire

import "fmt"

// Numbers of programs and their versions.
const (
	ProgramPortmap = 100000
	VersionPortmap = 2
	ProgramNFS     = 100003
	VersionNFS     = 3
	ProgramMount   = 100005
	VersionMount   = 3
)

// Numbers of RFC 5531.
const (
	rpcVersion  = 2
	messageCall = 0
	messageRepl = 1

	replyAccepted = 0
	replyDenied   = 1

	denyMismatch = 0
	denyAuth     = 1

	authNone = 0
	authSys  = 1
	// maxAuth is the most that a credential's body may have.
	maxAuth = 400
	// maxMachine and maxGroups are limits of AUTH_SYS.
	maxMachine = 255
	maxGroups  = 16
)

// AcceptStat says what a server did with a call that it did not deny.
type AcceptStat uint32

// Values of AcceptStat.
const (
	AcceptSuccess      AcceptStat = 0
	AcceptProgUnavail  AcceptStat = 1
	AcceptProgMismatch AcceptStat = 2
	AcceptProcUnavail  AcceptStat = 3
	AcceptGarbageArgs  AcceptStat = 4
	AcceptSystemErr    AcceptStat = 5
)

// Auth says who calls, by AUTH_SYS. A nil Auth is AUTH_NONE.
type Auth struct {
	Machine  string
	UID, GID uint32
	// Groups are the supplementary groups. The wire has room for 16; the rest is left out.
	Groups []uint32
}

// CallHeader begins a call; the arguments follow.
type CallHeader struct {
	XID                    uint32
	Program, Version, Proc uint32
	Auth                   *Auth
}

// Encode appends the header.
func (h *CallHeader) Encode(e *Encoder) {
	for _, v := range [...]uint32{h.XID, messageCall, rpcVersion, h.Program, h.Version, h.Proc} {
		e.Uint32(v)
	}
	if h.Auth == nil {
		e.Uint32(authNone)
		e.Opaque(nil)
	} else {
		e.Uint32(authSys)
		var body Encoder
		h.Auth.encode(&body)
		e.Opaque(body.Bytes())
	}
	e.Uint32(authNone)
	e.Opaque(nil)
}

func (a *Auth) encode(e *Encoder) {
	e.Uint32(0) // a stamp, which servers ignore
	e.String(a.Machine[:min(len(a.Machine), maxMachine)])
	e.Uint32(a.UID)
	e.Uint32(a.GID)
	groups := a.Groups[:min(len(a.Groups), maxGroups)]
	e.Uint32(uint32(len(groups)))
	for _, g := range groups {
		e.Uint32(g)
	}
}

// Decode reads the header. A call with another flavour of authentication than these two decodes with a nil Auth.
func (h *CallHeader) Decode(d *Decoder) {
	h.XID = d.Uint32()
	if m := d.Uint32(); d.Err() == nil && m != messageCall {
		d.fail("message type %d is no call", m)
	}
	if v := d.Uint32(); d.Err() == nil && v != rpcVersion {
		d.fail("RPC version %d", v)
	}
	h.Program, h.Version, h.Proc = d.Uint32(), d.Uint32(), d.Uint32()
	flavour, body := d.Uint32(), d.Opaque(maxAuth)
	if d.Err() == nil && flavour == authSys {
		h.Auth = &Auth{}
		a := NewDecoder(body)
		h.Auth.decode(a)
		if err := a.Finish(); err != nil {
			d.fail("AUTH_SYS: %v", err)
		}
	}
	d.Uint32()
	d.Opaque(maxAuth)
}

func (a *Auth) decode(d *Decoder) {
	d.Uint32()
	a.Machine = d.String(maxMachine)
	a.UID, a.GID = d.Uint32(), d.Uint32()
	n := d.Uint32()
	if d.Err() == nil && n > maxGroups {
		d.fail("%d groups, where at most %d are allowed", n, maxGroups)
	}
	for range n {
		if d.Err() != nil {
			return
		}
		a.Groups = append(a.Groups, d.Uint32())
	}
}

// Replied encodes the header of a reply with that status; for AcceptSuccess the results follow. versions are the lowest
// and the highest that the server knows, for AcceptProgMismatch.
func Replied(e *Encoder, xid uint32, stat AcceptStat, versions [2]uint32) {
	for _, v := range [...]uint32{xid, messageRepl, replyAccepted, authNone, 0, uint32(stat)} {
		e.Uint32(v)
	}
	if stat == AcceptProgMismatch {
		e.Uint32(versions[0])
		e.Uint32(versions[1])
	}
}

// DeniedAuth encodes a reply that denies a call for who makes it (AUTH_TOOWEAK).
func DeniedAuth(e *Encoder, xid uint32) {
	const tooWeak = 5
	for _, v := range [...]uint32{xid, messageRepl, replyDenied, denyAuth, tooWeak} {
		e.Uint32(v)
	}
}

// ReplyXID reads which call a reply answers; DecodeReply goes on.
func ReplyXID(d *Decoder) (uint32, error) {
	xid := d.Uint32()
	if m := d.Uint32(); d.Err() == nil && m != messageRepl {
		d.fail("message type %d is no reply", m)
	}
	return xid, d.Err()
}

// RPCError is a reply that is no success: the server does not know the program, or denies the caller.
type RPCError struct {
	// Denied is set where the server denied the call, by its authentication or the version of RPC.
	Denied bool
	// Stat is the status of a call that was not denied.
	Stat AcceptStat
	// Detail is the reason of a denial (auth_stat), or zero.
	Detail uint32
}

var _ error = (*RPCError)(nil)

// Error says what the server answered.
func (e *RPCError) Error() string {
	if e.Denied {
		return fmt.Sprintf("the server denies the call (auth_stat %d): it may allow only ports below 1024, or other addresses",
			e.Detail)
	}
	what, ok := map[AcceptStat]string{
		AcceptProgUnavail: "it does not serve this program", AcceptProgMismatch: "it does not serve this version of the program",
		AcceptProcUnavail: "it does not know this procedure", AcceptGarbageArgs: "it could not read the arguments",
		AcceptSystemErr: "it failed",
	}[e.Stat]
	if !ok {
		what = fmt.Sprintf("accept_stat %d", e.Stat)
	}
	return "the server answers that " + what
}

// DecodeReply reads the rest of a reply's header, up to the results. It returns an RPCError for anything but success, or
// the decoder's error.
func DecodeReply(d *Decoder) error {
	switch stat := d.Uint32(); {
	case d.Err() != nil:
		return d.Err()
	case stat == replyDenied:
		reason := d.Uint32()
		detail := d.Uint32()
		if reason == denyMismatch {
			detail = 0
		}
		if d.Err() != nil {
			return d.Err()
		}
		return &RPCError{Denied: true, Detail: detail}
	case stat != replyAccepted:
		d.fail("reply_stat %d", stat)
		return d.Err()
	}
	d.Uint32()
	d.Opaque(maxAuth)
	stat := AcceptStat(d.Uint32())
	if d.Err() != nil {
		return d.Err()
	}
	if stat != AcceptSuccess {
		return &RPCError{Stat: stat}
	}
	return nil
}
