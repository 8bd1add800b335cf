// Package pki makes and keeps the keys and certificates of a bundled cluster: three authorities (cluster,
// etcd, front proxy), the leaf certificates they sign, and the key that signs service-account tokens.
//
// Everything lies in one directory as PEM files, keys readable by their owner alone. Ensure calls are
// idempotent: what exists, is still valid for RenewBefore and says what is asked for is kept; the rest is
// made anew. Nothing here logs, and no key leaves the directory but through a kubeconfig.
package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/orlop-io/orlop/cluster/file"
)

// Lifetimes. A leaf is renewed at the first Ensure within RenewBefore of its end.
const (
	caLifetime   = 10 * 365 * 24 * time.Hour
	leafLifetime = 365 * 24 * time.Hour
	RenewBefore  = 90 * 24 * time.Hour
	// clockSkew is how far back a certificate's validity starts, for peers whose clock is behind.
	clockSkew = time.Hour
)

// Authority is a certificate authority whose certificate and key lie in Dir as <name>.crt and <name>.key.
type Authority struct {
	Dir, Name string
	cert      *x509.Certificate
	key       *ecdsa.PrivateKey
}

// Leaf says what a certificate is for.
type Leaf struct {
	Name          string // file name without ending
	CommonName    string // the user it authenticates as
	Organizations []string
	DNSNames      []string
	IPs           []net.IP
	Server        bool // may serve TLS
	Client        bool // may authenticate a client
}

// EnsureAuthority reads the authority called name in dir, or makes it. One that has expired, or is damaged, is an
// error, never replaced silently: every kubeconfig handed out trusts it.
func EnsureAuthority(dir, name string) (*Authority, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	a := &Authority{Dir: dir, Name: name}
	// The key is written first: a certificate without one was not left by a crash.
	_, err := os.Stat(a.CertFile())
	if err == nil {
		if err := a.load(); err != nil {
			return nil, err
		}
		return a, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("certificate authority %s: %w", name, err)
	}
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, err
	}
	template, err := newTemplate(pkix.Name{CommonName: "orlop-" + name}, caLifetime)
	if err != nil {
		return nil, err
	}
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature | x509.KeyUsageCRLSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	if err != nil {
		return nil, err
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	if err := writePair(a.CertFile(), a.KeyFile(), der, a.key); err != nil {
		return nil, err
	}
	return a, nil
}

// load reads the authority's certificate and key, and refuses them outside of their time.
func (a *Authority) load() error {
	cert, key, err := readPair(a.CertFile(), a.KeyFile())
	if err != nil {
		return fmt.Errorf("certificate authority %s: %w: restore it, or remove %s to have a new cluster identity made",
			a.Name, err, a.Dir)
	}
	switch now := time.Now(); {
	case now.After(cert.NotAfter):
		return fmt.Errorf("certificate authority %s expired on %s: remove %s to have a new cluster identity made",
			a.CertFile(), cert.NotAfter.Format(time.DateOnly), a.Dir)
	case now.Before(cert.NotBefore):
		return fmt.Errorf("certificate authority %s is valid from %s on: set the clock right, or remove %s to have a new "+
			"cluster identity made", a.CertFile(), cert.NotBefore.Format(time.RFC3339), a.Dir)
	}
	a.cert, a.key = cert, key
	return nil
}

// CertFile is the path of the authority's certificate.
func (a *Authority) CertFile() string { return filepath.Join(a.Dir, a.Name+".crt") }

// KeyFile is the path of the authority's key.
func (a *Authority) KeyFile() string { return filepath.Join(a.Dir, a.Name+".key") }

// Ensure makes the leaf's certificate and key in the authority's directory unless the ones there serve, and
// returns their paths.
func (a *Authority) Ensure(leaf Leaf) (certFile, keyFile string, err error) {
	certFile = filepath.Join(a.Dir, leaf.Name+".crt")
	keyFile = filepath.Join(a.Dir, leaf.Name+".key")
	if cert, _, err := readPair(certFile, keyFile); err == nil && a.serves(cert, leaf) {
		return certFile, keyFile, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", err
	}
	template, err := newTemplate(pkix.Name{CommonName: leaf.CommonName, Organization: leaf.Organizations}, leafLifetime)
	if err != nil {
		return "", "", err
	}
	template.DNSNames, template.IPAddresses = leaf.DNSNames, leaf.IPs
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = usages(leaf)
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return "", "", err
	}
	return certFile, keyFile, writePair(certFile, keyFile, der, key)
}

// serves tells whether cert is signed by the authority, valid now and far from its end, and says what leaf asks for.
func (a *Authority) serves(cert *x509.Certificate, leaf Leaf) bool {
	return cert.CheckSignatureFrom(a.cert) == nil &&
		!time.Now().Before(cert.NotBefore) &&
		time.Until(cert.NotAfter) > RenewBefore &&
		cert.Subject.CommonName == leaf.CommonName &&
		// A set: DER sorts it.
		slices.Equal(slices.Sorted(slices.Values(cert.Subject.Organization)), slices.Sorted(slices.Values(leaf.Organizations))) &&
		slices.Equal(cert.DNSNames, leaf.DNSNames) &&
		slices.EqualFunc(cert.IPAddresses, leaf.IPs, net.IP.Equal) &&
		slices.Equal(cert.ExtKeyUsage, usages(leaf))
}

func usages(leaf Leaf) []x509.ExtKeyUsage {
	var u []x509.ExtKeyUsage
	if leaf.Server {
		u = append(u, x509.ExtKeyUsageServerAuth)
	}
	if leaf.Client {
		u = append(u, x509.ExtKeyUsageClientAuth)
	}
	return u
}

// EnsureKey makes an ECDSA private key <name>.key in dir unless there is one, and returns its path. It is
// what signs service-account tokens.
func EnsureKey(dir, name string) (string, error) {
	keyFile := filepath.Join(dir, name+".key")
	if _, err := readKey(keyFile); err == nil {
		return keyFile, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", err
	}
	return keyFile, writeKey(keyFile, key)
}

func newTemplate(subject pkix.Name, lifetime time.Duration) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      subject,
		NotBefore:    now.Add(-clockSkew),
		NotAfter:     now.Add(lifetime),
	}, nil
}

func readPair(certFile, keyFile string) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	data, err := os.ReadFile(certFile)
	if err != nil {
		return nil, nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, nil, fmt.Errorf("%s holds no PEM certificate", certFile)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", certFile, err)
	}
	key, err := readKey(keyFile)
	if err != nil {
		return nil, nil, err
	}
	if pub, ok := cert.PublicKey.(*ecdsa.PublicKey); !ok || !pub.Equal(key.Public()) {
		return nil, nil, fmt.Errorf("%s and %s do not belong together", certFile, keyFile)
	}
	return cert, key, nil
}

func readKey(keyFile string) (*ecdsa.PrivateKey, error) {
	data, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("%s holds no PEM key", keyFile)
	}
	key, err := x509.ParseECPrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", keyFile, err)
	}
	return key, nil
}

// writePair writes the key before the certificate: a crash between the two leaves a pair that does not read,
// which the next Ensure makes anew.
func writePair(certFile, keyFile string, der []byte, key *ecdsa.PrivateKey) error {
	if err := writeKey(keyFile, key); err != nil {
		return err
	}
	return file.Write(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644)
}

func writeKey(keyFile string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	return file.Write(keyFile, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600)
}
