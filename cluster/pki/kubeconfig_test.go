package pki

import (
	"os"
	"path/filepath"
	"testing"

	"k8s.io/client-go/tools/clientcmd"
)

func TestKubeconfig(t *testing.T) {
	a := authority(t)
	path := filepath.Join(t.TempDir(), "kubeconfig")
	leaf := Leaf{Name: "admin", CommonName: "orlop:admin", Organizations: []string{"system:masters"}}
	if err := a.WriteKubeconfig(path, "https://198.18.0.2:6443", leaf); err != nil {
		t.Fatal(err)
	}
	config, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		t.Fatal(err)
	}
	if config.Host != "https://198.18.0.2:6443" || string(config.CAData) != read(t, a.CertFile())+"\n" || config.Insecure {
		t.Errorf("server %s, insecure %t, or another authority", config.Host, config.Insecure)
	}
	// By itself: no path into the data directory, so that it can be copied to another machine.
	if config.CertFile+config.KeyFile+config.CAFile != "" || len(config.CertData) == 0 || len(config.KeyData) == 0 {
		t.Error("the kubeconfig refers to files")
	}
	cert, _ := ensure(t, a, Leaf{Name: "admin", CommonName: "orlop:admin", Organizations: []string{"system:masters"}, Client: true})
	if cert.Subject.CommonName != "orlop:admin" {
		t.Errorf("user %s", cert.Subject.CommonName)
	}
}

func TestKubeconfigIsItsOwnersAlone(t *testing.T) {
	a := authority(t)
	path := filepath.Join(t.TempDir(), "kubeconfig")
	leaf := Leaf{Name: "admin", CommonName: "orlop:admin"}
	inode := func() os.FileInfo {
		if err := a.WriteKubeconfig(path, "https://127.0.0.1:6443", leaf); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != 0o600 {
			t.Errorf("mode %v, want 0600", info.Mode())
		}
		return info
	}
	first := inode()
	// Somebody opened it to the world: what is equal is not written again, but closed again.
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if !os.SameFile(first, inode()) {
		t.Error("an equal kubeconfig was written again")
	}
	write(t, path, "apiVersion: v1")
	inode()
	if _, err := clientcmd.LoadFromFile(path); err != nil {
		t.Error(err)
	}
}
