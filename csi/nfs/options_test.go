package nfs

import (
	"strings"
	"testing"
	"time"
)

func TestParseShare(t *testing.T) {
	for in, want := range map[string]Share{
		"server:/data": {"server", "/data"}, "10.0.0.1:/": {"10.0.0.1", "/"}, "[fd00::1]:/a b": {"fd00::1", "/a b"},
	} {
		got, err := ParseShare(in)
		if err != nil || got != want || got.String() != in {
			t.Errorf("%q: %+v (%s), %v", in, got, got, err)
		}
	}
	for _, in := range []string{"", "server", "server:data", ":/data", "/data", "a b:/data", "nfs://server/data"} {
		if got, err := ParseShare(in); err == nil {
			t.Errorf("%q is %+v", in, got)
		}
	}
}

func TestParseMountOptions(t *testing.T) {
	m, err := ParseMountOptions(Share{"s", "/p"}, strings.Split(
		"soft,timeo=50,retrans=3,nconnect=4,port=2050,mountport=2051,ro,actimeo=0,vers=3,proto=tcp,nolock,,hard", ","))
	if err != nil {
		t.Fatal(err)
	}
	c := m.Client
	if c.Server != "s" || c.Share != "/p" || c.Connections != 4 || c.Port != 2050 || c.MountPort != 2051 ||
		c.Retransmit != 5*time.Second || c.Patience != 20*time.Second || !m.FS.ReadOnly || m.FS.AttrTimeout >= 0 {
		t.Errorf("%+v", m)
	}
	if m, err = ParseMountOptions(Share{}, nil); err != nil || m.Client.Patience != 0 || m.Client.Retransmit != time.Minute {
		t.Errorf("the defaults are not a hard mount: %+v, %v", m, err)
	}
	for _, bad := range []string{"timeo=x", "timeo=0", "nconnect=99", "port=70000", "vers=4.2", "proto=udp", "sec=krb5", "exec=/bin/sh", "bogus"} {
		if _, err := ParseMountOptions(Share{}, []string{bad}); err == nil || !strings.Contains(err.Error(), bad) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}
