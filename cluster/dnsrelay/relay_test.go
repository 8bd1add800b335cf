package dnsrelay

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/miekg/dns"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// resolver is a host's resolver: it answers A questions with its own address, big.example. with 100 records.
type resolver struct {
	addr  string
	rcode atomic.Int32
	mute  atomic.Bool
	asked atomic.Int32
	seen  chan *dns.Msg // what it was last asked, if somebody listens
}

func (r *resolver) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	r.asked.Add(1)
	select {
	case r.seen <- q.Copy():
	default:
	}
	if r.mute.Load() {
		return
	}
	a := new(dns.Msg).SetRcode(q, int(r.rcode.Load()))
	count := 1
	if strings.EqualFold(q.Question[0].Name, "big.example.") {
		count = 100
	}
	for range count {
		a.Answer = append(a.Answer, &dns.A{
			Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 5},
			A:   net.ParseIP(r.addr),
		})
	}
	if _, tcp := w.RemoteAddr().(*net.TCPAddr); !tcp {
		a.Truncate(bufferSize(q))
	}
	_ = w.WriteMsg(a)
}

// startResolver serves at a loopback address on the port of the others, or on a free one when port is 0.
func startResolver(t *testing.T, addr string, port int) (*resolver, int) {
	t.Helper()
	r := &resolver{addr: addr, seen: make(chan *dns.Msg, 1)}
	udp, err := net.ListenPacket("udp", net.JoinHostPort(addr, fmt.Sprint(port)))
	must(t, err)
	tcp, err := net.Listen("tcp", udp.LocalAddr().String())
	must(t, err)
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait)
	for _, s := range []*dns.Server{{PacketConn: udp, Handler: r}, {Listener: tcp, Handler: r}} {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		wg.Go(func() {
			if err := s.ActivateAndServe(); err != nil {
				t.Error(err)
			}
		})
		<-started
		t.Cleanup(func() { must(t, s.Shutdown()) })
	}
	return r, udp.LocalAddr().(*net.UDPAddr).Port
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func writeResolvConf(t *testing.T, file string, addrs ...string) {
	t.Helper()
	var b strings.Builder
	b.WriteString("search example.\noptions ndots:1\n")
	for _, a := range addrs {
		fmt.Fprintf(&b, "nameserver %s\n", a)
	}
	tmp := file + ".new"
	must(t, os.WriteFile(tmp, []byte(b.String()), 0o644))
	must(t, os.Rename(tmp, file))
}

// startRelay runs a relay on loopback whose resolvers listen on port; it returns where it listens.
func startRelay(t *testing.T, allow, resolvConf string, port int) (addr string, s *server) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cfg := Config{Listen: netip.MustParseAddr("127.0.0.1"), Allow: netip.MustParsePrefix(allow), ResolvConf: resolvConf}
	s, err := listen(ctx, cfg, 0)
	must(t, err)
	s.relay.port = fmt.Sprint(port)
	done := make(chan error, 1)
	go func() { done <- s.serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		must(t, <-done)
	})
	return s.udp.LocalAddr().String(), s
}

func query(t *testing.T, network, relay, name string) (*dns.Msg, error) {
	t.Helper()
	c := dns.Client{Net: network}
	q := new(dns.Msg).SetQuestion(name, dns.TypeA)
	a, _, err := c.ExchangeContext(t.Context(), q, relay)
	if err == nil && a.Id != q.Id {
		t.Errorf("answer %d to question %d", a.Id, q.Id)
	}
	return a, err
}

// from names the resolver that answered.
func from(t *testing.T, network, relay, name string) string {
	t.Helper()
	a, err := query(t, network, relay, name)
	must(t, err)
	if a.Rcode != dns.RcodeSuccess || len(a.Answer) == 0 {
		return dns.RcodeToString[a.Rcode]
	}
	return a.Answer[0].(*dns.A).A.String()
}

func TestRelay(t *testing.T) {
	file := filepath.Join(t.TempDir(), "resolv.conf")
	first, port := startResolver(t, "127.77.0.1", 0)
	second, _ := startResolver(t, "127.77.0.2", port)
	writeResolvConf(t, file, first.addr, second.addr)
	relay, s := startRelay(t, "127.0.0.0/8", file, port)

	for _, network := range []string{"udp", "tcp"} {
		if got := from(t, network, relay, "a.example."); got != first.addr {
			t.Errorf("%s: answered by %s, want %s", network, got, first.addr)
		}
	}

	t.Run("truncated over UDP, whole over TCP", func(t *testing.T) {
		a, err := query(t, "udp", relay, "big.example.")
		must(t, err)
		if !a.Truncated {
			t.Errorf("100 records in %d bytes were not marked as truncated", a.Len())
		}
		a, err = query(t, "tcp", relay, "big.example.")
		must(t, err)
		if a.Truncated || len(a.Answer) != 100 {
			t.Errorf("over TCP: %d records, truncated %v", len(a.Answer), a.Truncated)
		}
	})

	t.Run("the ID is another one upstream", func(t *testing.T) {
		different := false
		for range 4 { // a random one may be the same once
			select {
			case <-first.seen:
			default:
			}
			q := new(dns.Msg).SetQuestion("id.example.", dns.TypeA)
			_, _, err := new(dns.Client).ExchangeContext(t.Context(), q, relay)
			must(t, err)
			different = different || (<-first.seen).Id != q.Id
		}
		if !different {
			t.Error("questions go on with the asker's ID")
		}
	})

	t.Run("the next resolver when one fails", func(t *testing.T) {
		for _, rcode := range []int{dns.RcodeServerFailure, dns.RcodeRefused, dns.RcodeNotImplemented} {
			first.rcode.Store(int32(rcode))
			if got := from(t, "udp", relay, "b.example."); got != second.addr {
				t.Errorf("with %s from the first: %s", dns.RcodeToString[rcode], got)
			}
		}
		second.rcode.Store(dns.RcodeRefused)
		if got := from(t, "udp", relay, "b.example."); got != "REFUSED" {
			t.Errorf("with REFUSED from all: %s", got)
		}
		first.rcode.Store(dns.RcodeNameError)
		if got := from(t, "udp", relay, "b.example."); got != "NXDOMAIN" {
			t.Errorf("NXDOMAIN is an answer, got %s", got)
		}
		first.rcode.Store(dns.RcodeSuccess)
		second.rcode.Store(dns.RcodeSuccess)
	})

	t.Run("a resolver that is down is passed over once found so", func(t *testing.T) {
		writeResolvConf(t, file, "127.77.0.9", second.addr) // nothing listens at the first
		for range 2 {
			if got := from(t, "tcp", relay, "c.example."); got != second.addr {
				t.Errorf("answered by %s, want %s", got, second.addr)
			}
		}
		if list, err := s.relay.upstreams.get(); err != nil || list[0] != second.addr {
			t.Errorf("the order is %v, %v; want the living one first", list, err)
		}
	})

	t.Run("a change of resolv.conf is heeded at once", func(t *testing.T) {
		writeResolvConf(t, file, second.addr)
		if got := from(t, "udp", relay, "d.example."); got != second.addr {
			t.Errorf("answered by %s, want %s", got, second.addr)
		}
		writeResolvConf(t, file)
		if got := from(t, "udp", relay, "d.example."); got != "SERVFAIL" {
			t.Errorf("without a resolver: %s, want SERVFAIL", got)
		}
		must(t, os.Remove(file))
		if got := from(t, "udp", relay, "d.example."); got != "SERVFAIL" {
			t.Errorf("without a file: %s, want SERVFAIL", got)
		}
		writeResolvConf(t, file, "127.0.0.1", first.addr) // the relay itself is left out
		if got := from(t, "udp", relay, "d.example."); got != first.addr {
			t.Errorf("answered by %s, want %s", got, first.addr)
		}
	})

	t.Run("more than it can take", func(t *testing.T) {
		for range cap(s.relay.slots) {
			s.relay.slots <- struct{}{}
		}
		if got := from(t, "udp", relay, "e.example."); got != "SERVFAIL" {
			t.Errorf("with no slot free: %s, want SERVFAIL", got)
		}
		for range cap(s.relay.slots) {
			<-s.relay.slots
		}
	})

	t.Run("many at once", func(t *testing.T) {
		var wg sync.WaitGroup
		for range 50 {
			for _, network := range []string{"udp", "tcp"} {
				wg.Go(func() {
					a, err := query(t, network, relay, "many.example.")
					if err != nil || len(a.Answer) != 1 {
						t.Errorf("%s: %v, %v", network, a, err)
					}
				})
			}
		}
		wg.Wait()
	})
}

func TestForeignersAreNotAnswered(t *testing.T) {
	file := filepath.Join(t.TempDir(), "resolv.conf")
	r, port := startResolver(t, "127.77.0.1", 0)
	writeResolvConf(t, file, r.addr)
	relay, s := startRelay(t, "198.18.0.0/30", file, port)
	c := dns.Client{Net: "tcp"}
	if a, _, err := c.ExchangeContext(t.Context(), new(dns.Msg).SetQuestion("a.example.", dns.TypeA), relay); err == nil {
		t.Errorf("over TCP a foreigner was answered: %v", a)
	}
	w := &recorder{remote: &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 5}}
	s.relay.ServeDNS(w, new(dns.Msg).SetQuestion("a.example.", dns.TypeA))
	if w.wrote || r.asked.Load() != 0 {
		t.Errorf("over UDP a foreigner was answered: %v, asked upstream %d times", w.wrote, r.asked.Load())
	}
}

// recorder is a ResponseWriter that notes whether something was written.
type recorder struct {
	dns.ResponseWriter
	remote net.Addr
	wrote  bool
}

func (r *recorder) RemoteAddr() net.Addr      { return r.remote }
func (r *recorder) WriteMsg(_ *dns.Msg) error { r.wrote = true; return nil }

// TestStopWhileAsking ends the relay while a resolver keeps it waiting.
func TestStopWhileAsking(t *testing.T) {
	file := filepath.Join(t.TempDir(), "resolv.conf")
	r, port := startResolver(t, "127.77.0.1", 0)
	r.mute.Store(true)
	writeResolvConf(t, file, r.addr)
	ctx, cancel := context.WithCancel(t.Context())
	cfg := Config{Listen: netip.MustParseAddr("127.0.0.1"), Allow: netip.MustParsePrefix("127.0.0.0/8"), ResolvConf: file}
	s, err := listen(ctx, cfg, 0)
	must(t, err)
	s.relay.port = fmt.Sprint(port)
	done := make(chan error, 1)
	go func() { done <- s.serve(ctx) }()
	conn, err := net.Dial("udp", s.udp.LocalAddr().String())
	must(t, err)
	defer func() { must(t, conn.Close()) }()
	q, err := new(dns.Msg).SetQuestion("a.example.", dns.TypeA).Pack()
	must(t, err)
	_, err = conn.Write(q)
	must(t, err)
	<-r.seen
	cancel()
	must(t, <-done)
}

func TestRunErrors(t *testing.T) {
	if err := Run(t.Context(), Config{}); err == nil {
		t.Error("an empty configuration was accepted")
	}
	held, err := net.ListenPacket("udp", "127.77.0.3:0")
	must(t, err)
	defer func() { must(t, held.Close()) }()
	cfg := Config{Listen: netip.MustParseAddr("127.77.0.3"), Allow: netip.MustParsePrefix("127.0.0.0/8")}
	_, err = listen(t.Context(), cfg, held.LocalAddr().(*net.UDPAddr).Port)
	if err == nil || !strings.Contains(err.Error(), "another DNS server") {
		t.Errorf("on a port in use: %v", err)
	}
	cfg.Listen = netip.MustParseAddr("198.18.255.254")
	if _, err = listen(t.Context(), cfg, 0); err == nil || !strings.Contains(err.Error(), "lost its end") {
		t.Errorf("on an address that is not the host's: %v", err)
	}
}
