package cluster

import (
	"fmt"
	"strings"
	"testing"
)

func TestSocketPathsThatAreTooLong(t *testing.T) {
	l := Layout{DataDir: "/d", Node: "worker-1"}
	longest := 0
	for _, s := range l.sockets() {
		longest = max(longest, len(s))
	}
	fits := Layout{DataDir: "/" + strings.Repeat("d", 1+maxSocketPath-longest), Node: l.Node}
	if err := fits.Check(); err != nil {
		t.Errorf("a path of exactly %d bytes: %v", maxSocketPath, err)
	}
	for _, over := range []int{1, 20} {
		l := Layout{DataDir: fits.DataDir + strings.Repeat("x", over), Node: l.Node}
		err := l.Check()
		if err == nil {
			t.Fatalf("%d bytes too many were accepted", over)
		}
		for _, want := range []string{l.DataDir, fmt.Sprintf("%d bytes and", maxSocketPath+over), "allows 107",
			fmt.Sprintf("at least %d bytes shorter", over), ".sock"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q is not in: %v", want, err)
			}
		}
	}
}

func TestPathsThatCannotBeTold(t *testing.T) {
	for _, dir := range []string{"/var/lib/orlop", "/srv/with a space", "/srv/größe-1_2+3@4~5(6)"} {
		if err := (Layout{DataDir: dir}).Check(); err != nil {
			t.Error(err)
		}
	}
	for _, dir := range []string{"/a:b", "/a,b", `/a"b`, `/a\b`, "/a\nb", "/{$HOME}", "/100%", "/a#b", "/a?b", "/\xff", "/a'b", "/a;b"} {
		if err := (Layout{DataDir: dir}).Check(); err == nil || !strings.Contains(err.Error(), "choose a --data-dir without it") {
			t.Errorf("%q: %v", dir, err)
		}
	}
}
