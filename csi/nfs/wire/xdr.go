package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// Message is anything with an XDR form.
type Message interface {
	// Encode appends the message.
	Encode(e *Encoder)
	// Decode reads the message. What is wrong is in the decoder's error; the message is then of no use.
	Decode(d *Decoder)
}

// ErrMalformed is in the chain of every error of a decoder.
var ErrMalformed = errors.New("malformed message")

// Encoder appends XDR to a buffer. The zero value is ready for use.
type Encoder struct {
	buf []byte
	// tail is opaque data that ends the message, kept apart so that it need not be copied; padding follows it.
	tail []byte
}

// NewEncoder returns an encoder that appends to the buffer.
func NewEncoder(buf []byte) *Encoder { return &Encoder{buf: buf} }

// Clone returns an encoder with a copy of what was encoded; the tail is the same.
func (e *Encoder) Clone() *Encoder { return &Encoder{buf: slices.Clone(e.buf), tail: e.tail} }

// Bytes returns what was encoded, but for the tail.
func (e *Encoder) Bytes() []byte { return e.buf }

// Len returns how many bytes were encoded, the tail and its padding included.
func (e *Encoder) Len() int { return len(e.buf) + len(e.tail) + padding(len(e.tail)) }

// Uint32 appends an unsigned integer, or an enumeration.
func (e *Encoder) Uint32(v uint32) {
	e.check()
	e.buf = binary.BigEndian.AppendUint32(e.buf, v)
}

// Uint64 appends an unsigned hyper integer.
func (e *Encoder) Uint64(v uint64) {
	e.check()
	e.buf = binary.BigEndian.AppendUint64(e.buf, v)
}

// Bool appends a boolean.
func (e *Encoder) Bool(v bool) {
	if v {
		e.Uint32(1)
	} else {
		e.Uint32(0)
	}
}

// Fixed appends opaque data of a length that both sides know.
func (e *Encoder) Fixed(b []byte) {
	e.check()
	e.buf = append(e.buf, b...)
	e.buf = append(e.buf, zeros[:padding(len(b))]...)
}

// Opaque appends opaque data after its length.
func (e *Encoder) Opaque(b []byte) {
	e.Uint32(uint32(len(b)))
	e.Fixed(b)
}

// String appends a string after its length.
func (e *Encoder) String(s string) {
	e.Uint32(uint32(len(s)))
	e.buf = append(e.buf, s...)
	e.buf = append(e.buf, zeros[:padding(len(s))]...)
}

// Tail appends opaque data after its length as the last thing of a message, without copying it: the bytes must stay as
// they are until the message is sent.
func (e *Encoder) Tail(b []byte) {
	e.Uint32(uint32(len(b)))
	e.tail = b
}

func (e *Encoder) check() {
	if e.tail != nil {
		panic("wire: a message goes on after its tail")
	}
}

var zeros [4]byte

func padding(n int) int { return -n & 3 }

// Decoder reads XDR from one record. After the first error every method returns zero values; Err says what was wrong.
type Decoder struct {
	buf []byte
	err error
}

// NewDecoder returns a decoder of the record, which it never changes and results may refer to.
func NewDecoder(record []byte) *Decoder { return &Decoder{buf: record} }

// Err returns the first error, in whose chain is ErrMalformed.
func (d *Decoder) Err() error { return d.err }

// Finish returns the first error, or one where bytes are left.
func (d *Decoder) Finish() error {
	if d.err == nil && len(d.buf) > 0 {
		d.fail("%d bytes are left over", len(d.buf))
	}
	return d.err
}

func (d *Decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
		d.buf = nil
	}
}

// take returns the next n bytes and skips what pads them to a multiple of four.
func (d *Decoder) take(n int) []byte {
	if d.err != nil {
		return nil
	}
	if n > len(d.buf) || n+padding(n) > len(d.buf) {
		d.fail("%d bytes are missing", n+padding(n)-len(d.buf))
		return nil
	}
	b := d.buf[:n:n]
	d.buf = d.buf[n+padding(n):]
	return b
}

// Uint32 reads an unsigned integer, or an enumeration.
func (d *Decoder) Uint32() uint32 {
	b := d.take(4)
	if b == nil {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}

// Uint64 reads an unsigned hyper integer.
func (d *Decoder) Uint64() uint64 {
	b := d.take(8)
	if b == nil {
		return 0
	}
	return binary.BigEndian.Uint64(b)
}

// Bool reads a boolean; RFC 4506 knows two values.
func (d *Decoder) Bool() bool {
	switch v := d.Uint32(); v {
	case 0:
		return false
	case 1:
		return true
	default:
		d.fail("%d is no boolean", v)
		return false
	}
}

// Fixed reads opaque data of a length that both sides know. The result refers to the record.
func (d *Decoder) Fixed(n int) []byte { return d.take(n) }

// Opaque reads opaque data of at most limit bytes. The result refers to the record.
func (d *Decoder) Opaque(limit int) []byte {
	n := d.Uint32()
	if d.err == nil && uint64(n) > uint64(limit) {
		d.fail("opaque data of %d bytes, where at most %d are allowed", n, limit)
	}
	if d.err != nil {
		return nil
	}
	return d.take(int(n))
}

// String reads a string of at most limit bytes.
func (d *Decoder) String(limit int) string { return string(d.Opaque(limit)) }
