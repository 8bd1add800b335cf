package volumes

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubernetes/pkg/volume"

	"github.com/orlop-io/orlop/configsync/reference"
)

// strangeName is a path of an item that the mount table shows with escapes, and that looks like what the kernel adds to
// the paths of removed files.
const strangeName = "d/a b\t\\040 (deleted)"

var (
	subPathConfigMap = v1.Volume{Name: "v", VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{
		LocalObjectReference: local, DefaultMode: ptr(int32(0o644)), Items: []v1.KeyToPath{{Key: "a", Path: "a"}, {Key: "b", Path: "d/b"}, {Key: "a", Path: strangeName}}}}}
	subPathSecret = v1.Volume{Name: "v", VolumeSource: v1.VolumeSource{Secret: &v1.SecretVolumeSource{
		SecretName: "x", DefaultMode: ptr(int32(0o400))}}}
)

func inode(t *testing.T, file string) string {
	t.Helper()
	var stat syscall.Stat_t
	if err := syscall.Stat(file, &stat); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d:%d", stat.Dev, stat.Ino)
}

// A file that a container mounts with subPath follows its object with the annotation and keeps its inode: of a ConfigMap
// on disk and a Secret in memory, in every kind of container, after a restart of the kubelet, after its generation was
// removed, and when its key comes and goes.
func TestInPlace(t *testing.T) {
	needRoot(t)
	h := newHost(t, true)
	recorder := h.real()
	h.pod.Annotations[reference.SubPathAnnotation] = reference.SubPathInPlace
	dir := h.mounted(subPathConfigMap, volume.MounterArgs{})
	main := h.startContainer("main", 0, dir, "a")
	strange := h.startContainer("init", 3, dir, strangeName)
	directory := h.startContainer("main", 1, dir, "d")
	before := inode(t, main)

	// The generation that a reader pinned keeps its old files, though one of them has just been overwritten elsewhere.
	pinned, err := os.Readlink(filepath.Join(dir, "..data"))
	if err != nil {
		t.Fatal(err)
	}
	h.update("two, and longer")
	h.eventually("an edit", main, "two, and longer")
	h.eventually("an edit", strange, "two, and longer")
	for name, want := range map[string]string{"a": "1", strangeName: "1", "d/b": "2"} {
		if got := read(t, filepath.Join(dir, pinned, name)); got != want {
			t.Errorf("who pinned the earlier generation reads %q in %s, want %q", got, name, want)
		}
	}
	h.update("3")
	h.eventually("a shorter edit", main, "3")
	h.ages()
	h.update("four")
	h.eventually("an edit after its generation is removed", main, "four")
	h.eventually("an edit after its generation is removed", strange, "four")
	if got := inode(t, main); got != before {
		t.Errorf("the file's inode was %s and is %s", before, got)
	}
	if got := read(t, filepath.Join(directory, "b")); got != "2" {
		t.Errorf("the directory shows %q", got)
	}

	// A container that started at the wrong moment, and what was missed while the kubelet was away, heal at SetUp.
	if err := os.WriteFile(main, []byte("torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	h.restart()
	if _, err := h.setUp(subPathConfigMap, volume.MounterArgs{IsRemount: true}); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(main); err != nil || info.Mode() != 0o644 || read(t, main) != "four" {
		t.Errorf("after a restart: %v, %v, %q", info.Mode(), err, read(t, main))
	}
	h.update("five")
	h.eventually("an edit after a restart", strange, "five")

	if got := of(told(recorder), reasonSubPathKept); len(got) != 0 {
		t.Errorf("events: %q", got)
	}
	h.setKeys(map[string]string{"b": "2"})
	h.eventually("a key is gone", filepath.Join(dir, "a"), "five") // not optional: the volume is refused as a whole
	h.setKeys(map[string]string{"a": "back", "b": "2"})
	h.eventually("the key is back", main, "back")
}

func (h *testHost) setKeys(data map[string]string) {
	h.t.Helper()
	cm, err := h.client.CoreV1().ConfigMaps("ns").Get(h.t.Context(), "x", metav1.GetOptions{})
	if err == nil {
		cm.Data = data
		cm.ResourceVersion += "0"
		_, err = h.client.CoreV1().ConfigMaps("ns").Update(h.t.Context(), cm, metav1.UpdateOptions{})
	}
	if err != nil {
		h.t.Fatal(err)
	}
}

// A Secret's file stays on tmpfs; a key that is removed leaves the file, tells so once, and takes it up when it is back.
func TestInPlaceSecret(t *testing.T) {
	needRoot(t)
	h := newHost(t, true)
	recorder := h.real()
	h.pod.Annotations[reference.SubPathAnnotation] = reference.SubPathInPlace
	dir := h.mounted(subPathSecret, volume.MounterArgs{})
	file := h.startContainer("c", 0, dir, "k")
	other := h.startContainer("c", 1, dir, "a")
	before := inode(t, file)
	secrets := h.client.CoreV1().Secrets("ns")
	version := 1
	set := func(data map[string][]byte) {
		t.Helper()
		version++
		s := &v1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "x", Namespace: "ns", UID: "u", ResourceVersion: fmt.Sprint(version)}, Data: data}
		if _, err := secrets.Update(t.Context(), s, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	set(map[string][]byte{"k": []byte("rotated"), "a": []byte("1")})
	h.eventually("a Secret was changed", file, "rotated")
	for i := range 3 {
		set(map[string][]byte{"a": fmt.Append(nil, "other ", i)})
		h.eventually("another key was changed", other, fmt.Sprint("other ", i))
	}
	if got := read(t, file); got != "rotated" {
		t.Errorf("a file whose key is gone holds %q", got)
	}
	if got := of(told(recorder), reasonSubPathKept); len(got) != 1 || !strings.Contains(got[0], `Container "c" mounts k of volume "v"`) ||
		strings.Contains(got[0], "rotated") {
		t.Errorf("events of the key that is gone: %q", got)
	}
	set(map[string][]byte{"k": []byte("again"), "a": []byte("1")})
	h.eventually("the key is back", file, "again")
	info, err := os.Stat(file)
	if err != nil || info.Mode() != 0o400 || inode(t, file) != before {
		t.Errorf("the file is %v, %v, inode %s and was %s", info.Mode(), err, inode(t, file), before)
	}
	var fs syscall.Statfs_t
	if err := syscall.Statfs(file, &fs); err != nil || fs.Type != 0x01021994 {
		t.Errorf("the file is on a file system of type %x, %v; want tmpfs", fs.Type, err)
	}
}

// Without the annotation a file stays as it was, as in upstream's kubelet, whatever becomes of its generation; and a
// directory keeps all of its files, with the annotation and without.
func TestSubPathKeepsItsGeneration(t *testing.T) {
	needRoot(t)
	for _, annotated := range []bool{false, true} {
		t.Run(fmt.Sprintf("annotated %v", annotated), func(t *testing.T) {
			h := newHost(t, true)
			h.real()
			if annotated {
				h.pod.Annotations[reference.SubPathAnnotation] = reference.SubPathInPlace
			}
			dir := h.mounted(subPathConfigMap, volume.MounterArgs{})
			file := h.startContainer("c", 0, dir, "a")
			directory := h.startContainer("c", 1, dir, "d")
			for _, value := range []string{"x", "y", "z"} {
				h.update(value)
				h.eventually("an edit", filepath.Join(dir, "a"), value)
				h.ages()
			}
			want := "1"
			if annotated {
				want = "z"
			}
			if got := read(t, file); got != want {
				t.Errorf("the file holds %q, want %q", got, want)
			}
			if got := read(t, filepath.Join(directory, "b")); got != "2" {
				t.Errorf("the directory's file holds %q", got)
			}
			h.restart()
			if _, err := h.setUp(subPathConfigMap, volume.MounterArgs{}); err != nil {
				t.Fatal(err)
			}
			h.ages()
			if got := read(t, filepath.Join(directory, "b")); got != "2" {
				t.Errorf("after a restart the directory's file holds %q", got)
			}
			generations := func() int {
				entries, err := os.ReadDir(dir)
				if err != nil {
					t.Fatal(err)
				}
				return len(slices.DeleteFunc(entries, func(e os.DirEntry) bool { return !e.IsDir() }))
			}
			if n := generations(); n != 2 {
				t.Errorf("%d generations, want the visible one and the one that the container shows", n)
			}
			// A container that is started again shows the newest, and lets the old one go.
			directory = h.startContainer("c", 1, dir, "d")
			if _, err := os.Stat(filepath.Join(directory, strings.TrimPrefix(strangeName, "d/"))); err != nil {
				t.Error(err)
			}
			h.ages()
			if n := generations(); n != 1 {
				t.Errorf("%d generations, want the visible one", n)
			}
		})
	}
}

// What lies where the kubelet keeps subPath mounts, and is none of this volume's, is never written to.
func TestInPlaceWritesNothingElse(t *testing.T) {
	needRoot(t)
	h := newHost(t, true)
	h.real()
	h.pod.Annotations[reference.SubPathAnnotation] = reference.SubPathInPlace
	dir := h.mounted(subPathConfigMap, volume.MounterArgs{})
	ours := h.startContainer("c", 0, dir, "a")
	at := filepath.Dir(ours)
	elsewhere := filepath.Join(h.t.TempDir(), "..2026_11_20_10_00_00.1", "a")
	for _, err := range []error{
		os.MkdirAll(filepath.Dir(elsewhere), 0o755), os.WriteFile(elsewhere, []byte("precious"), 0o600),
		os.WriteFile(filepath.Join(at, "1"), []byte("precious"), 0o600), // prepared by the kubelet, and not mounted yet
		os.Symlink(filepath.Join(dir, "a"), filepath.Join(filepath.Dir(at), "link")),
		os.WriteFile(filepath.Join(at, "3"), nil, 0o600),
		syscall.Mount(elsewhere, filepath.Join(at, "3"), "", syscall.MS_BIND, ""),
		syscall.Mkfifo(filepath.Join(at, "4"), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	h.update("new")
	h.eventually("an edit", ours, "new")
	for _, file := range []string{elsewhere, filepath.Join(at, "1"), filepath.Join(at, "3")} {
		if got := read(t, file); got != "precious" {
			t.Errorf("%s was overwritten with %q", file, got)
		}
	}
	for _, err := range []error{
		os.Remove(filepath.Join(filepath.Dir(at), "link")), syscall.Unmount(filepath.Join(at, "3"), 0), os.Remove(filepath.Join(at, "4")),
	} {
		if err != nil {
			t.Error(err)
		}
	}
}
