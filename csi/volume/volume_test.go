package volume

import (
	"context"
	"errors"
	"math"
	"strings"
	"testing"
)

func TestIDRoundTrip(t *testing.T) {
	for _, kind := range []Kind{KindDir, KindLoop} {
		for _, name := range []string{"", "pvc-1", strings.Repeat("n", 4096), "../../etc/passwd"} {
			id := NewID(kind, name)
			s := id.String()
			if len(s) > MaxIDLength {
				t.Errorf("%q is longer than %d bytes", s, MaxIDLength)
			}
			back, err := ParseID(s)
			if err != nil || back != id {
				t.Errorf("ParseID(%q) = %v, %v", s, back, err)
			}
		}
	}
	if NewID(KindDir, "a").Key() != NewID(KindLoop, "a").Key() {
		t.Error("the key depends on the kind, so that Create cannot lock it")
	}
	if NewID(KindDir, "a") == NewID(KindDir, "b") {
		t.Error("two names have one ID")
	}
}

func TestParseIDRefuses(t *testing.T) {
	good := NewID(KindLoop, "a").String()
	for _, s := range []string{
		"", "v1", "v2" + good[2:], strings.ToUpper(good), good + "0", good[:len(good)-1], "v1-x" + good[4:],
		"v1-l-" + strings.Repeat("z", 40), "v1-l-" + strings.Repeat("A", 40), "../" + good, strings.Repeat("v1-", 1000),
	} {
		if id, err := ParseID(s); !errors.Is(err, ErrNotFound) {
			t.Errorf("ParseID(%q) = %v, %v", s, id, err)
		}
	}
}

func FuzzParseID(f *testing.F) {
	f.Add(NewID(KindDir, "a").String())
	f.Add("v1-l-")
	f.Fuzz(func(t *testing.T, s string) {
		if id, err := ParseID(s); err == nil && id.String() != s {
			t.Errorf("%q parses as %q", s, id)
		}
	})
}

func TestChooseSize(t *testing.T) {
	const mi = 1 << 20
	rule := SizeRule{Default: 1024 * mi, Min: 16 * mi, Max: 1 << 44, Multiple: 4096}
	for _, c := range []struct {
		name string
		in   SizeRange
		want int64
		err  error
	}{
		{"nothing asked", SizeRange{}, 1024 * mi, nil},
		{"limit below the default", SizeRange{Limit: 100 * mi}, 100 * mi, nil},
		{"odd limit below the default", SizeRange{Limit: 100*mi + 1}, 100 * mi, nil},
		{"exact", SizeRange{Required: 64 * mi, Limit: 64 * mi}, 64 * mi, nil},
		{"decimal size", SizeRange{Required: 1e9}, 1000001536, nil},
		{"one byte", SizeRange{Required: 1}, 16 * mi, nil},
		{"limit below the minimum", SizeRange{Required: 1, Limit: mi}, 0, ErrOutOfRange},
		{"no multiple in between", SizeRange{Required: 64*mi + 1, Limit: 64*mi + 2}, 0, ErrOutOfRange},
		{"absurd", SizeRange{Required: math.MaxInt64}, 0, ErrOutOfRange},
		{"largest", SizeRange{Required: 1 << 44}, 1 << 44, nil},
		{"negative", SizeRange{Required: -1}, 0, ErrInvalid},
		{"crossed", SizeRange{Required: 2, Limit: 1}, 0, ErrInvalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := rule.Choose(c.in)
			if got != c.want || !errors.Is(err, c.err) {
				t.Errorf("got %d, %v, want %d, %v", got, err, c.want, c.err)
			}
		})
	}
}

func TestBytes(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 bytes", 1: "1 bytes", 1024: "1Ki", 1536: "1536 bytes", 1 << 30: "1Gi", 5 << 40: "5Ti",
		math.MaxInt64: "9223372036854775807 bytes",
	} {
		if got := Bytes(n); got != want {
			t.Errorf("Bytes(%d) = %q, want %q", n, got, want)
		}
	}
}

// blocking is a Service whose Create waits to be released.
type blocking struct {
	Service
	entered, leave chan struct{}
}

func (b blocking) Create(context.Context, Spec) (Volume, error) {
	close(b.entered)
	<-b.leave
	return Volume{}, nil
}

func (blocking) Delete(context.Context, ID) error { return nil }

func TestSerialize(t *testing.T) {
	next := blocking{entered: make(chan struct{}), leave: make(chan struct{})}
	s := Serialize(next)
	done := make(chan error)
	go func() {
		_, err := s.Create(context.Background(), Spec{Name: "a"})
		done <- err
	}()
	<-next.entered
	if err := s.Delete(context.Background(), NewID(KindLoop, "a")); !errors.Is(err, ErrBusy) {
		t.Errorf("delete during create: %v", err)
	}
	if err := s.Delete(context.Background(), NewID(KindLoop, "b")); err != nil {
		t.Errorf("delete of another volume: %v", err)
	}
	close(next.leave)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := s.Delete(context.Background(), NewID(KindLoop, "a")); err != nil {
		t.Errorf("delete after create: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Delete(ctx, NewID(KindLoop, "a")); !errors.Is(err, context.Canceled) {
		t.Errorf("delete with an ended context: %v", err)
	}
}
