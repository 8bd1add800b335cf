package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
)

// messages are all that have an XDR form, in an order that fuzzing relies on.
var messages = []func() Message{
	func() Message { return &CallHeader{} }, func() Message { return &HandleArgs{} }, func() Message { return &GetAttrRes{} },
	func() Message { return &SetAttrArgs{} }, func() Message { return &WccRes{} }, func() Message { return &EntryArgs{} },
	func() Message { return &LookupRes{} }, func() Message { return &AccessArgs{} }, func() Message { return &AccessRes{} },
	func() Message { return &ReadLinkRes{} }, func() Message { return &ReadArgs{} }, func() Message { return &ReadRes{} },
	func() Message { return &WriteArgs{} }, func() Message { return &WriteRes{} }, func() Message { return &CommitArgs{} },
	func() Message { return &CommitRes{} }, func() Message { return &CreateArgs{} }, func() Message { return &MkdirArgs{} },
	func() Message { return &SymlinkArgs{} }, func() Message { return &MknodArgs{} }, func() Message { return &CreateRes{} },
	func() Message { return &RenameArgs{} }, func() Message { return &RenameRes{} }, func() Message { return &LinkArgs{} },
	func() Message { return &LinkRes{} }, func() Message { return &ReadDirArgs{} }, func() Message { return &ReadDirPlusArgs{} },
	func() Message { return &ReadDirRes{} }, func() Message { return &ReadDirRes{Plus: true} },
	func() Message { return &FSStatRes{} }, func() Message { return &FSInfoRes{} }, func() Message { return &PathConfRes{} },
	func() Message { return &PathArgs{} }, func() Message { return &MntRes{} }, func() Message { return &ExportRes{} },
	func() Message { return &PortArgs{} }, func() Message { return &PortRes{} }, func() Message { return Void{} },
}

// all returns the message as a stream has it, tail included.
func all(t *testing.T, m Message) []byte {
	t.Helper()
	e := RecordSpace(nil)
	m.Encode(e)
	var to bytes.Buffer
	if err := WriteRecord(&to, e); err != nil {
		t.Fatal(err)
	}
	record, err := NewRecordReader(&to, MaxRecord).Next(nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(record) != e.Len()-4 || len(record)%4 != 0 {
		t.Fatalf("%T: a record of %d bytes, encoded were %d", m, len(record), e.Len()-4)
	}
	return record
}

// random fills a message with values that the protocol allows.
func random(v reflect.Value, r *rand.Rand) {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			if r.IntN(4) == 0 {
				return
			}
			v.Set(reflect.New(v.Type().Elem()))
		}
		random(v.Elem(), r)
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).Name != "Plus" {
				random(v.Field(i), r)
			}
		}
	case reflect.Slice:
		n := r.IntN(5)
		if v.Type().Elem().Kind() == reflect.Uint8 {
			n = r.IntN(100)
		}
		s := reflect.MakeSlice(v.Type(), n, n)
		for i := range n {
			random(s.Index(i), r)
		}
		if n > 0 || v.Type().Elem().Kind() == reflect.Uint8 {
			v.Set(s)
		}
	case reflect.Array:
		for i := range v.Len() {
			random(v.Index(i), r)
		}
	case reflect.String:
		v.SetString(strings.Repeat("n", 1+r.IntN(20)))
	case reflect.Bool:
		v.SetBool(r.IntN(2) == 0)
	case reflect.Uint8, reflect.Uint64:
		v.SetUint(r.Uint64() & (1<<(8*v.Type().Size()-1)<<1 - 1))
	case reflect.Uint32:
		n := uint64(r.Uint32())
		switch v.Type() {
		case reflect.TypeFor[FileType]():
			n = n%7 + 1
		case reflect.TypeFor[Status]():
			n = uint64([]Status{OK, OK, ErrNoEnt, ErrJukebox}[n%4])
		case reflect.TypeFor[SetTimeHow](), reflect.TypeFor[Stability](), reflect.TypeFor[CreateHow]():
			n %= 3
		}
		v.SetUint(n)
	}
}

// Whatever is encoded is decoded as the same, and encoded again as the same bytes.
func TestRoundTrip(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, make := range messages {
		for range 300 {
			m := make()
			random(reflect.ValueOf(&m).Elem().Elem(), r)
			record := all(t, m)
			got := make()
			d := NewDecoder(record)
			got.Decode(d)
			if err := d.Finish(); err != nil {
				t.Fatalf("%#v: %v", m, err)
			}
			if again := all(t, got); !bytes.Equal(again, record) {
				t.Fatalf("%#v\nbecame %#v", m, got)
			}
			// Every message cut short is an error, and never a panic.
			for cut := range len(record) {
				d := NewDecoder(record[:cut])
				make().Decode(d)
				if d.Err() == nil {
					t.Fatalf("%T of %d bytes is decoded from %d", m, len(record), cut)
				}
				if !errors.Is(d.Err(), ErrMalformed) {
					t.Fatal(d.Err())
				}
			}
		}
	}
}

// What a peer sends costs an error at most, and memory in proportion to what it sent.
func FuzzDecode(f *testing.F) {
	r := rand.New(rand.NewPCG(3, 4))
	for i, make := range messages {
		m := make()
		random(reflect.ValueOf(&m).Elem().Elem(), r)
		var e Encoder
		m.Encode(&e)
		f.Add(uint8(i), append(e.Bytes(), e.tail...))
	}
	f.Fuzz(func(t *testing.T, which uint8, record []byte) {
		make := messages[int(which)%len(messages)]
		m := make()
		d := NewDecoder(record)
		m.Decode(d)
		if d.Finish() != nil {
			return
		}
		first := all(t, m)
		again := make()
		d = NewDecoder(first)
		again.Decode(d)
		if err := d.Finish(); err != nil {
			t.Fatalf("%#v: %v", m, err)
		}
		if !bytes.Equal(all(t, again), first) {
			t.Fatalf("%#v became %#v", m, again)
		}
	})
}

func FuzzReply(f *testing.F) {
	var e Encoder
	Replied(&e, 7, AcceptProgMismatch, [2]uint32{2, 3})
	f.Add(e.Bytes())
	f.Fuzz(func(_ *testing.T, record []byte) {
		d := NewDecoder(record)
		if _, err := ReplyXID(d); err == nil {
			_ = DecodeReply(d)
		}
	})
}

func FuzzRecord(f *testing.F) {
	f.Add([]byte{0x80, 0, 0, 4, 1, 2, 3, 4})
	f.Add([]byte{0, 0, 0, 0, 0x80, 0, 0, 0})
	f.Fuzz(func(t *testing.T, stream []byte) {
		const limit = 1 << 16
		reader := NewRecordReader(bytes.NewReader(stream), limit)
		for {
			record, err := reader.Next(nil)
			if err != nil {
				return
			}
			if len(record) > limit {
				t.Fatalf("a record of %d bytes", len(record))
			}
		}
	})
}

func TestRecords(t *testing.T) {
	frame := func(last bool, data string) []byte {
		mark := uint32(len(data))
		if last {
			mark |= lastFragment
		}
		return append(binary.BigEndian.AppendUint32(nil, mark), data...)
	}
	stream := bytes.Join([][]byte{frame(false, "ab"), frame(false, ""), frame(true, "cd"), frame(true, "")}, nil)
	for _, chop := range []func(io.Reader) io.Reader{
		func(r io.Reader) io.Reader { return r }, iotest.OneByteReader, iotest.DataErrReader,
	} {
		r := NewRecordReader(chop(bytes.NewReader(stream)), 4)
		for _, want := range []string{"abcd", ""} {
			if got, err := r.Next(make([]byte, 0, 3)); err != nil || string(got) != want {
				t.Errorf("got %q, %v, want %q", got, err, want)
			}
		}
		if _, err := r.Next(nil); !errors.Is(err, io.EOF) {
			t.Errorf("at the end: %v", err)
		}
	}
	for name, c := range map[string]struct {
		stream []byte
		want   error
	}{
		"beyond the limit":           {frame(true, "abcde"), ErrTooLarge},
		"fragments beyond the limit": {append(frame(false, "abc"), frame(true, "de")...), ErrTooLarge},
		"an absurd length":           {[]byte{0xff, 0xff, 0xff, 0xff}, ErrTooLarge},
		"many empty fragments":       {bytes.Repeat(frame(false, ""), maxFragments+1), ErrTooLarge},
		"cut in the data":            {frame(true, "abcd")[:6], io.ErrUnexpectedEOF},
		"cut in the mark":            {[]byte{0x80}, io.ErrUnexpectedEOF},
		"cut between fragments":      {frame(false, "ab"), io.ErrUnexpectedEOF},
	} {
		if _, err := NewRecordReader(bytes.NewReader(c.stream), 4).Next(nil); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

// A peer that announces a large record and sends nothing costs one small buffer.
func TestAnnouncedIsNotAllocated(t *testing.T) {
	announce := binary.BigEndian.AppendUint32(nil, MaxRecord|lastFragment)
	got := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for range b.N {
			if _, err := NewRecordReader(bytes.NewReader(announce), MaxRecord).Next(nil); err == nil {
				b.Fatal("a record came out of nothing")
			}
		}
	}).AllocedBytesPerOp()
	if got > 2*chunk {
		t.Errorf("%d bytes were allocated", got)
	}
}

func TestHostileNames(t *testing.T) {
	for _, name := range []string{"", "a/b", "/", "../../etc/passwd", "a\x00b", strings.Repeat("a", MaxName+1)} {
		if err := ValidName(name); !errors.Is(err, ErrMalformed) {
			t.Errorf("%.20q is valid: %v", name, err)
		}
		e := RecordSpace(nil)
		(&ReadDirRes{Plus: true, Entries: []Entry{{Name: "fine"}, {Name: name}}}).Encode(e)
		d := NewDecoder(e.Bytes()[4:])
		got := &ReadDirRes{Plus: true}
		if got.Decode(d); !errors.Is(d.Err(), ErrMalformed) {
			t.Errorf("a listing with %.20q is decoded", name)
		}
	}
	for _, name := range []string{"a", ".", "..", "ä b", "..data", strings.Repeat("a", 255)} {
		if err := ValidName(name); err != nil {
			t.Error(err)
		}
	}
}

func TestReplies(t *testing.T) {
	decode := func(encode func(*Encoder)) error {
		var e Encoder
		encode(&e)
		d := NewDecoder(e.Bytes())
		if xid, err := ReplyXID(d); err != nil || xid != 42 {
			t.Fatal(xid, err)
		}
		return DecodeReply(d)
	}
	if err := decode(func(e *Encoder) { Replied(e, 42, AcceptSuccess, [2]uint32{}) }); err != nil {
		t.Error(err)
	}
	var refused *RPCError
	err := decode(func(e *Encoder) { Replied(e, 42, AcceptProgUnavail, [2]uint32{}) })
	if !errors.As(err, &refused) || refused.Denied || refused.Stat != AcceptProgUnavail {
		t.Error(err)
	}
	err = decode(func(e *Encoder) { DeniedAuth(e, 42) })
	if !errors.As(err, &refused) || !refused.Denied || refused.Detail != 5 || !strings.Contains(err.Error(), "1024") {
		t.Error(err)
	}
}

func TestStatus(t *testing.T) {
	if !errors.Is(ErrNoEnt, fs.ErrNotExist) || !errors.Is(ErrAcces, fs.ErrPermission) || errors.Is(ErrIO, fs.ErrExist) {
		t.Error("a status is not the error it stands for")
	}
	if OK.Err() != nil || !errors.Is(ErrStale.Err(), ErrStale) {
		t.Error("Err")
	}
	for err, want := range map[error]Status{
		nil: OK, syscall.ENOTEMPTY: ErrNotEmpty, &fs.PathError{Err: syscall.EDQUOT}: ErrDQuot, syscall.ELOOP: ErrNotDir,
		ErrJukebox: ErrJukebox, syscall.EFAULT: ErrIO, io.EOF: ErrIO,
	} {
		if got := StatusOf(err); got != want {
			t.Errorf("%v is %v, want %v", err, got, want)
		}
	}
	if got := Status(4711).Errno(); got != syscall.EIO {
		t.Error(got)
	}
}

// The wire has room for 16 groups; more are left out, as every client does.
func TestAuth(t *testing.T) {
	many := &Auth{Machine: strings.Repeat("m", 300), UID: 1, GID: 2, Groups: make([]uint32, 20)}
	var e Encoder
	(&CallHeader{XID: 1, Program: ProgramNFS, Auth: many}).Encode(&e)
	var got CallHeader
	d := NewDecoder(e.Bytes())
	got.Decode(d)
	if err := d.Finish(); err != nil {
		t.Fatal(err)
	}
	if len(got.Auth.Groups) != 16 || len(got.Auth.Machine) != 255 {
		t.Errorf("%+v", got.Auth)
	}
}
