// Package writer puts a payload into a directory so that every reader sees whole files of one generation.
//
// The layout is that of Kubernetes' AtomicWriter, so that programs that know it keep working:
//
//	<dir>/..2026_11_20_10_00_00.123456789/     one generation: the real files
//	<dir>/..data -> ..2026_11_20_10_00_00.…    swapped by rename
//	<dir>/app.conf -> ..data/app.conf          what the user sees, one link a top-level name
//
// Inside of each generation there is also ..generation, a JSON document that names the objects and the
// resourceVersions that its files agree with; an edit that changes no file replaces this document alone. No key of a
// ConfigMap or Secret, and no path of an item, can begin with "..".
//
// A reader that needs several files of one generation reads the link ..data once and then opens the files below what
// it names. A superseded generation stays for a grace period, so that such a reader finds all of them.
//
// After any failure, and after the end of the process between any two steps, the visible files are those of the last
// good generation or of the new one: never empty, never mixed. The next Write, of this process or of the next, repairs
// what was left.
package writer
