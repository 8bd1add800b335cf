package payload

import (
	"errors"
	"strings"
	"testing"
)

// hostile are names as keys, as items' paths and as the names of objects. Those without an error are strange but
// harmless, and mean a file of this path.
var hostile = []struct {
	name  string
	clean string
	err   error
}{
	{"", "", ErrPathEmpty},
	{".", "", ErrPathEmpty},
	{"./", "", ErrPathEmpty},
	{"././.", "", ErrPathEmpty},
	{"/", "", ErrPathAbsolute},
	{"//", "", ErrPathAbsolute},
	{"/etc/passwd", "", ErrPathAbsolute},
	{"//etc/passwd", "", ErrPathAbsolute},
	{"/..", "", ErrPathAbsolute},
	{"/proc/self/root", "", ErrPathAbsolute},
	{"..", "", ErrPathEscapes},
	{"../", "", ErrPathEscapes},
	{"../x", "", ErrPathEscapes},
	{"../../../../etc/shadow", "", ErrPathEscapes},
	{"a/..", "", ErrPathEscapes},
	{"a/../b", "", ErrPathEscapes},
	{"a/../../b", "", ErrPathEscapes},
	{"./../b", "", ErrPathEscapes},
	{"a/b/c/../../../../d", "", ErrPathEscapes},
	{"a//..//b", "", ErrPathEscapes},
	{"..//x", "", ErrPathEscapes},
	{"a/./../b", "", ErrPathEscapes},
	{"..data", "", ErrPathReserved},
	{"..data/x", "", ErrPathReserved},
	{"..data_tmp", "", ErrPathReserved},
	{"..generation", "", ErrPathReserved},
	{"..2026_11_20_10_00_00.123", "", ErrPathReserved},
	{"...", "", ErrPathReserved},
	{"....", "", ErrPathReserved},
	{".../x", "", ErrPathReserved},
	{"..x", "", ErrPathReserved},
	{".. ", "", ErrPathReserved},
	{"..\n", "", ErrPathReserved},
	{"..\\x", "", ErrPathReserved},
	{"./..data", "", ErrPathReserved},
	{"./..2026_11_20/x", "", ErrPathReserved},
	{".//..data/..data", "", ErrPathReserved},
	{"a\x00b", "", ErrPathInvalid},
	{"\x00", "", ErrPathInvalid},
	{"ok/\x00", "", ErrPathInvalid},
	{"a/b\x00/../c", "", ErrPathInvalid},
	{strings.Repeat("n", 256), "", ErrPathTooLong},
	{"a/" + strings.Repeat("n", 256), "", ErrPathTooLong},
	{strings.Repeat("é", 128), "", ErrPathTooLong},
	{strings.Repeat("d/", 2048) + "x", "", ErrPathTooLong},
	{strings.Repeat("x", 1<<20), "", ErrPathTooLong},

	{strings.Repeat("n", 255), strings.Repeat("n", 255), nil},
	{"a", "a", nil},
	{"a/", "a", nil},
	{"a//b", "a/b", nil},
	{"./a", "a", nil},
	{"a/./b", "a/b", nil},
	{"a/..b", "a/..b", nil},
	{"a/..data", "a/..data", nil},
	{"a/...", "a/...", nil},
	{".hidden", ".hidden", nil},
	{".", "", ErrPathEmpty},
	{"-rf", "-rf", nil},
	{"--help", "--help", nil},
	{"*", "*", nil},
	{"$(reboot)", "$(reboot)", nil},
	{"`reboot`", "`reboot`", nil},
	{"; rm -rf x", "; rm -rf x", nil},
	{"a\nb", "a\nb", nil},
	{"a\tb", "a\tb", nil},
	{"\x1b[2J", "\x1b[2J", nil},
	{"C:\\windows", "C:\\windows", nil},
	{"a\\..\\b", "a\\..\\b", nil},
	{"%2e%2e/x", "%2e%2e/x", nil},
	{"․․/x", "․․/x", nil}, // two one-dot leaders
	{"~root/x", "~root/x", nil},
	{"con", "con", nil},
	{"\xff\xfe", "\xff\xfe", nil},
	{"\u202etxt.exe", "\u202etxt.exe", nil},
	{" ", " ", nil},
	{"lost+found", "lost+found", nil},
}

func TestHostileNames(t *testing.T) {
	if len(hostile) < 60 {
		t.Fatalf("%d hostile names, and 60 are asked for", len(hostile))
	}
	for _, h := range hostile {
		clean, err := CleanPath(h.name)
		if clean != h.clean || !errors.Is(err, h.err) {
			t.Errorf("CleanPath(%.80q) = %.80q, %v; want %.80q, %v", h.name, clean, err, h.clean, h.err)
		}
		o := configMap()
		o.Data[h.name] = Content("v")
		o.Name = h.name
		for use, source := range map[string]Source{
			"key":  {Object: o},
			"path": {Object: o, Items: []Item{{Key: h.name, Path: h.name}}},
		} {
			p, err := Build(Volume{Sources: []Source{source}})
			if !errors.Is(err, h.err) {
				t.Errorf("%.80q as a %s: error %v, want %v", h.name, use, err, h.err)
			}
			if err != nil {
				if len(err.Error()) > 6000 {
					t.Errorf("%.80q as a %s: an error of %d bytes", h.name, use, len(err.Error()))
				}
				continue
			}
			if paths := p.Paths(); len(paths) != 1 || paths[0] != h.clean {
				t.Errorf("%.80q as a %s: files %q", h.name, use, paths)
			}
		}
	}
}

func FuzzCleanPath(f *testing.F) {
	for _, h := range hostile {
		f.Add(h.name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		clean, err := CleanPath(name)
		if err != nil {
			return
		}
		if again, err := CleanPath(clean); err != nil || again != clean {
			t.Errorf("CleanPath(%q) = %q, and of that %q, %v", name, clean, again, err)
		}
		if strings.HasPrefix(clean, "/") || strings.HasPrefix(clean, "..") || strings.Contains("/"+clean+"/", "/../") {
			t.Errorf("CleanPath(%q) = %q leaves the volume", name, clean)
		}
	})
}
