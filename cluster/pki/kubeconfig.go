package pki

import (
	"bytes"
	"fmt"
	"os"

	"sigs.k8s.io/yaml"

	"github.com/orlop-io/orlop/cluster/file"
)

// WriteKubeconfig writes to path (mode 0600) a kubeconfig which authenticates at server by the certificate of leaf,
// made by the authority when it is not there. The certificate and key are embedded, so that the file can
// be copied to another machine. An equal file is left untouched.
func (a *Authority) WriteKubeconfig(path, server string, leaf Leaf) error {
	leaf.Client = true
	certFile, keyFile, err := a.Ensure(leaf)
	if err != nil {
		return err
	}
	ca, err := os.ReadFile(a.CertFile())
	if err != nil {
		return err
	}
	cert, err := os.ReadFile(certFile)
	if err != nil {
		return err
	}
	key, err := os.ReadFile(keyFile)
	if err != nil {
		return err
	}
	const name = "orlop"
	// The versioned type of client-go has no omitempty on several of its fields; this is the same, shorter.
	data, err := yaml.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Config", "current-context": name,
		"clusters": []any{map[string]any{"name": name, "cluster": map[string]any{
			"server": server, "certificate-authority-data": ca}}},
		"users": []any{map[string]any{"name": leaf.CommonName, "user": map[string]any{
			"client-certificate-data": cert, "client-key-data": key}}},
		"contexts": []any{map[string]any{"name": name, "context": map[string]any{
			"cluster": name, "user": leaf.CommonName}}},
	})
	if err != nil {
		return fmt.Errorf("kubeconfig %s: %w", path, err)
	}
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, data) {
		return os.Chmod(path, 0o600)
	}
	return file.Write(path, data, 0o600)
}
