package cluster

import (
	"os"
	"path/filepath"
	"testing"
)

func TestForgetLastBoot(t *testing.T) {
	l := Layout{DataDir: t.TempDir()}
	bundle := filepath.Join(l.containerdState(), "bundle")
	make := func() {
		t.Helper()
		if err := os.MkdirAll(bundle, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	forget := func(wantGone bool, when string) {
		t.Helper()
		if err := l.forgetLastBoot(); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(bundle); os.IsNotExist(err) != wantGone {
			t.Errorf("%s: %v, want gone: %t", when, err, wantGone)
		}
	}
	make()
	forget(true, "no boot is on record")
	make()
	forget(false, "the boot on record is this one")
	if err := os.WriteFile(l.bootFile(), []byte("another\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	forget(true, "the machine was rebooted")
}
