package main

import (
	"crypto/sha256"
	"embed"
	"fmt"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/orlop-io/orlop/deploy/image/oci"
)

// release is the Debian release the images are made of. Its version of MariaDB is part of that image's tag.
const release = "bookworm"

// imageSpec says what goes into an image.
type imageSpec struct {
	name     string   // full name and tag
	packages []string // Debian packages; their dependencies come along
	// keep lists what of the packages goes into the image: patterns of path.Match, beginning with a slash, and
	// whole directories where they end in one.
	keep  []string
	files []file
	// links are symbolic links, by name.
	links  map[string]string
	config ocispec.ImageConfig
}

// file is a file or, where its mode says so, a directory that the image holds beside those of the packages.
type file struct {
	name     string
	mode     int64
	uid, gid int
	dir      bool
	data     string
}

// own is the source of this program with all it puts into images. A new source is a new image.
//
//go:embed *.go mariadb
var own embed.FS

//go:embed mariadb/entrypoint.sh
var mariadbEntrypoint string

//go:embed mariadb/my.cnf
var mariadbConfig string

// mysqlUser is the user and group that mysqld runs as: 999 in the official images too, and therefore in manifests.
const mysqlUser = 999

// shared is what a program of Debian's needs to run at all.
var shared = []string{"/lib64/*", "/lib/*/*.so*", "/usr/lib/*/*.so*", "/bin/busybox"}

var users = []file{
	{name: "/etc/passwd", mode: 0o644, data: "root:x:0:0:root:/root:/bin/sh\n" +
		"nobody:x:65534:65534:nobody:/:/bin/false\n" +
		fmt.Sprintf("mysql:x:%d:%[1]d:MySQL:/var/lib/mysql:/bin/false\n", mysqlUser)},
	{name: "/etc/group", mode: 0o644, data: "root:x:0:\nnogroup:x:65534:\n" +
		fmt.Sprintf("mysql:x:%d:\n", mysqlUser)},
	{name: "/etc/nsswitch.conf", mode: 0o644, data: "passwd: files\ngroup: files\nhosts: files dns\n"},
	{name: "/root", mode: 0o700, dir: true},
	{name: "/tmp", mode: 0o1777, dir: true},
}

var kinds = map[string]imageSpec{
	// Stands in for the official mysql:8 as far as the examples and tests go.
	"mariadb": {
		name:     "orlop.io/demo/mariadb:10.11",
		packages: []string{"mariadb-server", "busybox"},
		keep: append([]string{
			"/usr/sbin/mariadbd", "/usr/sbin/mysqld",
			"/usr/bin/mariadb", "/usr/bin/mysql",
			"/usr/bin/mariadb-admin", "/usr/bin/mysqladmin",
			"/usr/bin/mariadb-dump", "/usr/bin/mysqldump",
			"/usr/bin/mariadb-check", "/usr/bin/mysqlcheck",
			"/usr/bin/mariadb-upgrade", "/usr/bin/mysql_upgrade",
			"/usr/bin/mariadb-install-db", "/usr/bin/my_print_defaults", "/usr/bin/resolveip",
			"/usr/lib/mysql/plugin/*.so", "/usr/share/mysql/*.sql", "/usr/share/mysql/charsets/",
			"/usr/share/mysql/english/",
		}, shared...),
		files: append([]file{
			{name: "/etc/mysql", mode: 0o755, dir: true},
			{name: "/etc/mysql/conf.d", mode: 0o755, dir: true},
			{name: "/etc/mysql/my.cnf", mode: 0o644, data: mariadbConfig},
			{name: "/entrypoint.sh", mode: 0o755, data: mariadbEntrypoint},
			{name: "/var/lib/mysql", mode: 0o750, uid: mysqlUser, gid: mysqlUser, dir: true},
			// Any user may put its socket here: with runAsUser the process is not the owner.
			{name: "/run/mysqld", mode: 0o1777, uid: mysqlUser, gid: mysqlUser, dir: true},
		}, users...),
		links: applets,
		config: ocispec.ImageConfig{
			Entrypoint:   []string{"/entrypoint.sh"},
			Cmd:          []string{"mysqld"},
			Env:          []string{searchPath},
			ExposedPorts: map[string]struct{}{"3306/tcp": {}},
			Volumes:      map[string]struct{}{"/var/lib/mysql": {}},
		},
	},
	// A small system for tests. In Debian 12's busybox "wget -T" crashes: use "timeout 2 wget".
	"busybox": {
		name:     "orlop.io/test/busybox:1",
		packages: []string{"busybox"},
		keep:     shared,
		files:    users,
		links:    applets,
		config:   ocispec.ImageConfig{Cmd: []string{"sh"}, Env: []string{searchPath}},
	},
}

const searchPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// applets are the links by which busybox is the programs of a small system.
var applets = func() map[string]string {
	links := map[string]string{}
	for name := range strings.FieldsSeq(`
		[ arch ash awk base64 basename cat chgrp chmod chown cmp cp cut date dd df diff dirname dmesg du echo egrep
		env expr fallocate false fgrep find fold free getopt grep groups gunzip gzip head hexdump hostname httpd id
		ifconfig ip kill killall less link ln ls md5sum mkdir mkfifo mknod mktemp more mount mv nc netstat nice nohup
		nproc nslookup od paste patch pidof ping ping6 printf ps pwd readlink realpath reset rm rmdir route sed seq
		setpriv setsid sh sha1sum sha256sum sha512sum shuf sleep sort stat strings stty sync sysctl tac tail tar tee
		telnet test time timeout top touch tr traceroute true truncate tty umount uname uniq unlink uptime usleep vi
		watch wc wget which who whoami xargs xxd yes zcat`) {
		links["/bin/"+name] = "busybox"
	}
	return links
}()

// image is what the archive says of the image.
func (s imageSpec) image() oci.Image {
	return oci.Image{Name: s.name, Arch: arch, Config: s.config, Inputs: s.fingerprint()}
}

// fingerprint changes when an image built from the spec would.
func (s imageSpec) fingerprint() string {
	hash := sha256.New()
	_, _ = fmt.Fprintln(hash, s.name, arch) // a hash never fails
	for _, dir := range []string{".", "mariadb"} {
		entries, err := own.ReadDir(dir)
		if err != nil {
			panic(err) // what is embedded is there
		}
		for _, e := range entries {
			if e.IsDir() || strings.HasSuffix(e.Name(), "_test.go") {
				continue
			}
			data, err := own.ReadFile(strings.TrimPrefix(dir+"/"+e.Name(), "./"))
			if err != nil {
				panic(err)
			}
			_, _ = fmt.Fprintln(hash, e.Name(), len(data))
			_, _ = hash.Write(data)
		}
	}
	return fmt.Sprintf("%x", hash.Sum(nil))
}
