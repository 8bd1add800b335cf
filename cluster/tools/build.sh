#!/bin/sh
# Builds the programs a node runs beside Orlop's own: containerd, its shim and ctr, runc, the CNI
# plugins and the pause process. Usage: build.sh OUTDIR
set -eu

if [ $# -ne 1 ]; then
	echo "usage: $0 OUTDIR" >&2
	exit 2
fi
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1/cni"
out=$(cd "$1" && pwd)
cd "$here"

fail() {
	echo "build.sh: $1" >&2
	exit 1
}
command -v "${CC:-gcc}" >/dev/null || fail "runc needs a C compiler: apt-get install gcc"
command -v pkg-config >/dev/null || fail "runc needs pkg-config: apt-get install pkg-config"
pkg-config --exists libseccomp || fail "runc needs libseccomp's headers: apt-get install libseccomp-dev"

# The version a program reports is that of the module it was built from, without the leading v.
version() {
	v=$(go list -m -f '{{.Version}}' "$1")
	echo "${v#v}"
}

ctrd=github.com/containerd/containerd/v2
cni=github.com/containernetworking/plugins
runc=github.com/opencontainers/runc

# Static programs start faster and depend on nothing that the host has. The tags leave out what
# no node of ours can use: snapshotters for btrfs, ZFS and device mapper, and tracing.
ctrd_tags=urfave_cli_no_docs,grpcnotrace,no_tracing,static_build,osusergo,netgo,no_btrfs,no_zfs,no_devmapper
ctrd_ldflags="-s -w -X $ctrd/version.Version=v$(version $ctrd)"
CGO_ENABLED=0 go build -trimpath -tags "$ctrd_tags" -ldflags "$ctrd_ldflags" -o "$out/" \
	$ctrd/cmd/containerd $ctrd/cmd/ctr

# One shim runs for each pod and is spoken to over ttrpc: without gRPC it is the smaller.
CGO_ENABLED=0 go build -trimpath -tags "$ctrd_tags,no_grpc" -ldflags "$ctrd_ldflags" -o "$out/" \
	$ctrd/cmd/containerd-shim-runc-v2

# runc enters namespaces from C before Go starts, and compiles seccomp filters with libseccomp:
# without the seccomp tag the default profile makes every sandbox fail.
CGO_ENABLED=1 go build -trimpath -tags seccomp,urfave_cli_no_docs,osusergo,netgo \
	-ldflags '-s -w -linkmode external -extldflags -static' -o "$out/" $runc

CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X $cni/pkg/utils/buildversion.BuildVersion=v$(version $cni)" \
	-o "$out/cni/" $cni/plugins/ipam/host-local $cni/plugins/main/loopback $cni/plugins/main/ptp \
	$cni/plugins/meta/portmap

# pause belongs to the main module.
cd ../..
CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$out/" ./cluster/pause
