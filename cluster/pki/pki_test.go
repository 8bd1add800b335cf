package pki

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func authority(t *testing.T) *Authority {
	t.Helper()
	a, err := EnsureAuthority(filepath.Join(t.TempDir(), "pki"), "ca")
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// ensure returns the leaf's certificate, and its files' content to compare.
func ensure(t *testing.T, a *Authority, leaf Leaf) (*x509.Certificate, string) {
	t.Helper()
	certFile, keyFile, err := a.Ensure(leaf)
	if err != nil {
		t.Fatal(err)
	}
	cert, _, err := readPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	return cert, read(t, certFile) + read(t, keyFile)
}

func server() Leaf {
	return Leaf{Name: "apiserver", CommonName: "kube-apiserver", Organizations: []string{"b", "a"}, Server: true,
		DNSNames: []string{"kubernetes", "localhost"}, IPs: []net.IP{net.IPv4(198, 18, 0, 2), net.ParseIP("fd00::1")}}
}

func TestLeafIsWhatWasAskedFor(t *testing.T) {
	a := authority(t)
	cert, _ := ensure(t, a, server())
	roots := x509.NewCertPool()
	roots.AddCert(a.cert)
	for _, name := range []string{"kubernetes", "localhost", "198.18.0.2", "fd00::1"} {
		if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, DNSName: name}); err != nil {
			t.Errorf("as server %s: %v", name, err)
		}
	}
	asClient := x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	if _, err := cert.Verify(asClient); err == nil {
		t.Error("a server's certificate authenticates a client")
	}
	client, _ := ensure(t, a, Leaf{Name: "admin", CommonName: "orlop:admin", Organizations: []string{"system:masters"}, Client: true})
	if _, err := client.Verify(asClient); err != nil {
		t.Error(err)
	}
	if client.Subject.CommonName != "orlop:admin" || client.Subject.Organization[0] != "system:masters" || client.IsCA {
		t.Errorf("subject %v, authority %t", client.Subject, client.IsCA)
	}
	if !a.cert.IsCA || a.cert.Subject.CommonName != "orlop-ca" {
		t.Errorf("the authority is %v", a.cert.Subject)
	}
}

func TestEnsureIsIdempotent(t *testing.T) {
	a := authority(t)
	_, first := ensure(t, a, server())
	again, err := EnsureAuthority(a.Dir, "ca")
	if err != nil {
		t.Fatal(err)
	}
	if !again.cert.Equal(a.cert) {
		t.Error("the authority was made anew")
	}
	if _, second := ensure(t, again, server()); second != first {
		t.Error("the certificate was made anew")
	}
	key, err := EnsureKey(a.Dir, "service-account")
	if err != nil {
		t.Fatal(err)
	}
	before := read(t, key)
	if _, err := EnsureKey(a.Dir, "service-account"); err != nil || read(t, key) != before {
		t.Errorf("the key was made anew (%v): every token would be void", err)
	}
}

func TestWhatMakesALeafAnew(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*Leaf)
		anew   bool
	}{
		{"the same", func(*Leaf) {}, false},
		{"organizations in another order", func(l *Leaf) { l.Organizations = []string{"a", "b"} }, false},
		{"another address", func(l *Leaf) { l.IPs[0] = net.IPv4(198, 18, 0, 6) }, true},
		{"one more name", func(l *Leaf) { l.DNSNames = append(l.DNSNames, "node") }, true},
		{"another user", func(l *Leaf) { l.CommonName = "x" }, true},
		{"another group", func(l *Leaf) { l.Organizations = nil }, true},
		{"a client, too", func(l *Leaf) { l.Client = true }, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := authority(t)
			_, before := ensure(t, a, server())
			leaf := server()
			tt.change(&leaf)
			if _, after := ensure(t, a, leaf); (after != before) != tt.anew {
				t.Errorf("made anew: %t, want %t", after != before, tt.anew)
			}
		})
	}
}

func TestRenewal(t *testing.T) {
	for _, tt := range []struct {
		name                string
		notBefore, notAfter time.Duration // from now
		anew                bool
	}{
		{"fresh", -time.Hour, leafLifetime, false},
		{"just outside of the renewal", -time.Hour, RenewBefore + time.Hour, false},
		{"within the renewal", -time.Hour, RenewBefore - time.Hour, true},
		{"expired", -2 * time.Hour, -time.Hour, true},
		{"made by a clock that was ahead", time.Hour, leafLifetime, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := authority(t)
			leaf := Leaf{Name: "x", CommonName: "x", Client: true}
			certFile, keyFile, err := a.Ensure(leaf)
			if err != nil {
				t.Fatal(err)
			}
			resign(t, a, certFile, keyFile, leaf.CommonName, usages(leaf), tt.notBefore, tt.notAfter)
			before := read(t, certFile)
			cert, _ := ensure(t, a, leaf)
			if anew := read(t, certFile) != before; anew != tt.anew {
				t.Errorf("made anew: %t, want %t", anew, tt.anew)
			}
			if now := time.Now(); now.Before(cert.NotBefore) || time.Until(cert.NotAfter) < RenewBefore {
				t.Errorf("valid from %s to %s", cert.NotBefore, cert.NotAfter)
			}
		})
	}
}

// resign replaces a certificate by one of the same key and another time.
func resign(t *testing.T, a *Authority, certFile, keyFile, name string, use []x509.ExtKeyUsage, notBefore, notAfter time.Duration) {
	t.Helper()
	_, key, err := readPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	template, err := newTemplate(pkix.Name{CommonName: name}, 0)
	if err != nil {
		t.Fatal(err)
	}
	template.NotBefore, template.NotAfter = time.Now().Add(notBefore), time.Now().Add(notAfter)
	template.ExtKeyUsage = use
	template.IsCA, template.BasicConstraintsValid = use == nil, use == nil
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	if err := writePair(certFile, keyFile, der, key); err != nil {
		t.Fatal(err)
	}
}

func TestHalfWrittenLeafIsMadeAnew(t *testing.T) {
	for _, tt := range []struct {
		name   string
		damage func(t *testing.T, certFile, keyFile string)
	}{
		{"no certificate", func(t *testing.T, c, _ string) { remove(t, c) }},
		{"no key", func(t *testing.T, _, k string) { remove(t, k) }},
		// The crash between the two: the new key stands beside the old certificate.
		{"another's key", func(t *testing.T, _, k string) {
			remove(t, k)
			if _, err := EnsureKey(filepath.Dir(k), "apiserver"); err != nil {
				t.Fatal(err)
			}
		}},
		{"garbage", func(t *testing.T, c, _ string) { write(t, c, "garbage") }},
		{"PEM of garbage", func(t *testing.T, c, _ string) {
			write(t, c, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
		}},
		{"an empty key", func(t *testing.T, _, k string) { write(t, k, "") }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := authority(t)
			certFile, keyFile, err := a.Ensure(server())
			if err != nil {
				t.Fatal(err)
			}
			tt.damage(t, certFile, keyFile)
			ensure(t, a, server())
		})
	}
}

func TestAuthorityIsNeverReplacedSilently(t *testing.T) {
	for _, tt := range []struct {
		name   string
		damage func(t *testing.T, a *Authority)
		want   string // in the error; empty for none
	}{
		{"the crash before the certificate", func(t *testing.T, a *Authority) { remove(t, a.CertFile()) }, ""},
		{"no key", func(t *testing.T, a *Authority) { remove(t, a.KeyFile()) }, "ca.key"},
		{"garbage", func(t *testing.T, a *Authority) { write(t, a.CertFile(), "garbage") }, "holds no PEM certificate"},
		{"expired", func(t *testing.T, a *Authority) {
			resign(t, a, a.CertFile(), a.KeyFile(), "orlop-ca", nil, -2*time.Hour, -time.Hour)
		}, "expired on"},
		{"not yet valid", func(t *testing.T, a *Authority) {
			resign(t, a, a.CertFile(), a.KeyFile(), "orlop-ca", nil, time.Hour, 2*time.Hour)
		}, "set the clock right"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := authority(t)
			tt.damage(t, a)
			_, err := EnsureAuthority(a.Dir, "ca")
			if tt.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "remove "+a.Dir) {
				t.Errorf("got %v, want %q and what to do", err, tt.want)
			}
		})
	}
}

func TestForeignSignatureIsReplaced(t *testing.T) {
	a, b := authority(t), authority(t)
	certFile, keyFile, err := b.Ensure(server())
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{certFile, keyFile} {
		write(t, filepath.Join(a.Dir, filepath.Base(f)), read(t, f))
	}
	cert, _ := ensure(t, a, server())
	if err := cert.CheckSignatureFrom(a.cert); err != nil {
		t.Error(err)
	}
}

func TestModes(t *testing.T) {
	a := authority(t)
	certFile, keyFile, err := a.Ensure(server())
	if err != nil {
		t.Fatal(err)
	}
	account, err := EnsureKey(a.Dir, "service-account")
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]fs.FileMode{
		a.Dir: fs.ModeDir | 0o700, a.CertFile(): 0o644, a.KeyFile(): 0o600, certFile: 0o644, keyFile: 0o600, account: 0o600,
	} {
		if info, err := os.Stat(path); err != nil || info.Mode() != want {
			t.Errorf("%s: mode %v (%v), want %v", path, info.Mode(), err, want)
		}
	}
}

func TestDamagedServiceAccountKeyIsAnError(t *testing.T) {
	dir := t.TempDir()
	key, err := EnsureKey(dir, "service-account")
	if err != nil {
		t.Fatal(err)
	}
	write(t, key, "garbage")
	if _, err := EnsureKey(dir, "service-account"); err == nil || !strings.Contains(err.Error(), key) {
		t.Errorf("got %v", err)
	}
	if got := read(t, key); got != "garbage" {
		t.Error("the damaged key was replaced: every token would be void")
	}
}

func TestErrorsHoldNoKey(t *testing.T) {
	a := authority(t)
	pem := read(t, a.KeyFile())
	write(t, a.CertFile(), pem) // the key in the certificate's place
	_, err := EnsureAuthority(a.Dir, "ca")
	if err == nil {
		t.Fatal("a key was taken for a certificate")
	}
	for line := range strings.Lines(pem) {
		if strings.Contains(err.Error(), strings.TrimSpace(line)) {
			t.Fatalf("the error quotes the key: %v", err)
		}
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, data string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return string(bytes.TrimSpace(data))
}
