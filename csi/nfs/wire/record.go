package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
)

// lastFragment marks the last fragment of a record (RFC 5531, section 11).
const lastFragment = 1 << 31

// maxFragments is how many fragments a record may have. Servers send one; a peer that sends many small ones keeps us busy.
const maxFragments = 1024

// ErrTooLarge is returned for a record beyond the reader's limit.
var ErrTooLarge = errors.New("record too large")

// RecordReader reads records from a stream. It is not for concurrent use.
type RecordReader struct {
	from  io.Reader
	limit int
}

// NewRecordReader returns a reader of records of at most limit bytes. Give it a buffered reader.
func NewRecordReader(from io.Reader, limit int) *RecordReader {
	return &RecordReader{from: from, limit: limit}
}

// chunk is how much a record's buffer grows before the bytes have come: a peer that announces much and sends little costs
// this much.
const chunk = 64 << 10

// Next reads a record into buf, if it is large enough, or else into a new buffer. It returns io.EOF where the stream
// ends between records. After any error the stream is of no use.
func (r *RecordReader) Next(buf []byte) ([]byte, error) {
	record := buf[:0]
	for fragment := 0; ; fragment++ {
		var head [4]byte
		if _, err := io.ReadFull(r.from, head[:]); err != nil {
			if fragment > 0 && errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		mark := binary.BigEndian.Uint32(head[:])
		n := int(mark &^ lastFragment)
		if n > r.limit-len(record) {
			return nil, fmt.Errorf("%w: over %d bytes", ErrTooLarge, r.limit)
		}
		if fragment == maxFragments {
			return nil, fmt.Errorf("%w: over %d fragments", ErrTooLarge, maxFragments)
		}
		var err error
		if record, err = r.fill(record, n); err != nil {
			return nil, err
		}
		if mark&lastFragment != 0 {
			return record, nil
		}
	}
}

// fill appends n bytes of the stream.
func (r *RecordReader) fill(record []byte, n int) ([]byte, error) {
	for n > 0 {
		step := n
		if free := cap(record) - len(record); step > free {
			step = min(n, max(chunk, len(record)))
			grown := make([]byte, len(record), len(record)+step)
			copy(grown, record)
			record = grown
		}
		start := len(record)
		record = record[:start+step]
		if _, err := io.ReadFull(r.from, record[start:]); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		n -= step
	}
	return record, nil
}

// WriteRecord writes what was encoded as one record of one fragment, with one system call on a TCP connection. The
// encoder must have begun with RecordSpace.
func WriteRecord(to io.Writer, e *Encoder) error {
	size := e.Len() - len(zeros)
	if size >= lastFragment {
		return fmt.Errorf("%w: %d bytes", ErrTooLarge, size)
	}
	binary.BigEndian.PutUint32(e.buf, uint32(size)|lastFragment)
	if e.tail == nil {
		_, err := to.Write(e.buf)
		return err
	}
	parts := net.Buffers{e.buf, e.tail, zeros[:padding(len(e.tail))]}
	_, err := parts.WriteTo(to)
	return err
}

// RecordSpace returns an encoder that appends to the buffer, with room for the record's mark.
func RecordSpace(buf []byte) *Encoder { return NewEncoder(append(buf[:0], zeros[:]...)) }
