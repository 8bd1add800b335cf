// Package dnsrelay answers a node's questions about names outside its cluster.
//
// The resolver in a host's /etc/resolv.conf is often one that a node in a network namespace of its own cannot
// reach: 127.0.0.53 is its own loopback there, and a VPN's resolver may refuse it. The relay listens on the host's
// end of the node's link and passes questions on to the host's resolvers, UDP as UDP and TCP as TCP, so that an
// answer that was cut short (TC, RFC 2181 section 9) is asked for again by whoever asked.
//
// It keeps no cache, for CoreDNS in front of it does, and answers nobody but the node.
package dnsrelay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"syscall"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/errgroup"
)

// Config says where a relay listens and for whom.
type Config struct {
	// Listen is the address, the host's end of the node's link; the port is 53, UDP and TCP.
	Listen netip.Addr
	// Allow has the addresses that are answered. Questions from others are dropped without an answer, lest the
	// relay serve to flood the address they claim to come from.
	Allow netip.Prefix
	// ResolvConf names the host's resolvers, as /etc/resolv.conf; a change is heeded at the next question.
	ResolvConf string
}

const (
	dnsPort = 53

	// maxInFlight bounds the questions under way, each a goroutine and a socket; more are answered with SERVFAIL.
	maxInFlight = 512
	// maxTCP bounds the connections; the kernel queues more.
	maxTCP = 64
	// attemptTimeout is for one resolver, totalTimeout for all: shorter than the 5 s after which resolvers
	// give up (RES_TIMEOUT in resolv.conf(5)), so that the answer still finds someone listening.
	attemptTimeout = 2 * time.Second
	totalTimeout   = 4500 * time.Millisecond
)

// Run relays until ctx ends, and then returns nil once the questions under way are dropped and the sockets
// closed. Other errors say why it cannot listen.
func Run(ctx context.Context, cfg Config) error {
	s, err := listen(ctx, cfg, dnsPort)
	if err != nil {
		return err
	}
	return s.serve(ctx)
}

type server struct {
	udp   net.PacketConn
	tcp   net.Listener
	relay *relay
}

func listen(ctx context.Context, cfg Config, port int) (*server, error) {
	if !cfg.Listen.IsValid() || !cfg.Allow.IsValid() {
		return nil, fmt.Errorf("DNS relay: listen address %v and allowed prefix %v must both be set", cfg.Listen, cfg.Allow)
	}
	addr := net.JoinHostPort(cfg.Listen.String(), strconv.Itoa(port))
	var lc net.ListenConfig
	udp, err := lc.ListenPacket(ctx, "udp", addr)
	if err != nil {
		return nil, explain(err, addr)
	}
	tcp, err := lc.Listen(ctx, "tcp", udp.LocalAddr().String())
	if err != nil {
		return nil, errors.Join(explain(err, addr), udp.Close())
	}
	return &server{udp: udp, tcp: newFilter(tcp, cfg.Allow, maxTCP), relay: newRelay(ctx, cfg)}, nil
}

func explain(err error, addr string) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("DNS relay: %w: another DNS server holds port 53 of %s or of all addresses (see 'ss -lnp "+
			"sport = :53'); have it listen on its own addresses only", err, addr)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("DNS relay: %w: the host has lost its end of the node's link; run 'orlop up' to make it again", err)
	}
	return fmt.Errorf("DNS relay: %w", err)
}

func (s *server) serve(ctx context.Context) error {
	group, groupCtx := errgroup.WithContext(ctx)
	for _, srv := range []*dns.Server{
		{PacketConn: s.udp, Handler: s.relay, UDPSize: dns.MaxMsgSize},
		{Listener: s.tcp, Handler: s.relay, IdleTimeout: func() time.Duration { return 2 * totalTimeout }},
	} {
		started := make(chan struct{})
		srv.NotifyStartedFunc = func() { close(started) }
		served := make(chan struct{})
		group.Go(func() error {
			defer close(served)
			return srv.ActivateAndServe()
		})
		group.Go(func() error {
			// Shutdown before the server has started would leave it running.
			select {
			case <-started:
			case <-served:
				return nil
			}
			<-groupCtx.Done()
			return srv.Shutdown()
		})
	}
	if err := group.Wait(); err != nil && ctx.Err() == nil {
		return fmt.Errorf("DNS relay: %w", err)
	}
	return nil
}

// relay passes single questions on.
type relay struct {
	ctx       context.Context // of Run: dns.Handler has none of its own
	allow     netip.Prefix
	upstreams upstreams
	port      string // of the resolvers
	slots     chan struct{}
}

var _ dns.Handler = (*relay)(nil)

func newRelay(ctx context.Context, cfg Config) *relay {
	return &relay{
		ctx:       ctx,
		allow:     cfg.Allow,
		upstreams: upstreams{file: cfg.ResolvConf, self: cfg.Listen.String()},
		port:      strconv.Itoa(dnsPort),
		slots:     make(chan struct{}, maxInFlight),
	}
}

// ServeDNS answers one question; it runs concurrently.
func (r *relay) ServeDNS(w dns.ResponseWriter, question *dns.Msg) {
	if !allowed(r.allow, w.RemoteAddr()) {
		return
	}
	_, overTCP := w.RemoteAddr().(*net.TCPAddr)
	answer := r.answer(question, overTCP)
	answer.Id = question.Id
	answer.Compress = true // as the resolver had it; unpacked, it might not fit the asker's buffer
	if !overTCP {
		answer.Truncate(bufferSize(question))
	}
	// A failure to write means that the asker is gone or that the relay is being stopped: nobody to tell.
	_ = w.WriteMsg(answer)
}

// bufferSize is the largest UDP answer the asker takes: 512 bytes, or what it says by EDNS (RFC 6891 section 6.2.3).
func bufferSize(question *dns.Msg) int {
	if opt := question.IsEdns0(); opt != nil {
		return max(int(opt.UDPSize()), dns.MinMsgSize)
	}
	return dns.MinMsgSize
}

func (r *relay) answer(question *dns.Msg, overTCP bool) *dns.Msg {
	select {
	case r.slots <- struct{}{}:
		defer func() { <-r.slots }()
	default:
		return failure(question)
	}
	list, err := r.upstreams.get()
	if err != nil || len(list) == 0 {
		return failure(question)
	}
	ctx, cancel := context.WithTimeout(r.ctx, totalTimeout)
	defer cancel()
	var last *dns.Msg
	for _, upstream := range list {
		got, err := r.ask(ctx, upstream, question, overTCP)
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			r.upstreams.failed(upstream)
			continue
		}
		switch got.Rcode {
		case dns.RcodeServerFailure, dns.RcodeNotImplemented, dns.RcodeRefused:
			last = got // another one may know better, as for the C library's resolver
			continue
		}
		return got
	}
	if last != nil {
		return last
	}
	return failure(question)
}

// ask puts the question to one resolver, with an ID and a port of its own: those of the asker are known to
// everything on the node.
func (r *relay) ask(ctx context.Context, upstream string, question *dns.Msg, overTCP bool) (_ *dns.Msg, err error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	client := dns.Client{Net: "udp", Timeout: attemptTimeout}
	if overTCP {
		client.Net = "tcp"
	}
	conn, err := client.DialContext(ctx, net.JoinHostPort(upstream, r.port))
	if err != nil {
		return nil, err
	}
	// The exchange below heeds ctx's deadline alone.
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer func() {
		if stop() {
			err = errors.Join(err, conn.Close())
		}
	}()
	out := question.Copy()
	out.Id = dns.Id()
	got, _, err := client.ExchangeWithConnContext(ctx, out, conn)
	return got, err
}

func failure(question *dns.Msg) *dns.Msg {
	return new(dns.Msg).SetRcode(question, dns.RcodeServerFailure)
}
