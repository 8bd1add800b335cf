#!/bin/sh
# Installs the Debian packages that building, running and testing need, where they are missing. With RUNTIME=1 only
# what building and running need.
set -eu

# command or file to look for : package
runtime="gcc:gcc make:make git:git pkg-config:pkg-config /usr/include/seccomp.h:libseccomp-dev ip:iproute2 nft:nftables \
mkfs.ext4:e2fsprogs mount:mount"
test="mmdebstrap:mmdebstrap gpgv:gpgv conntrack:conntrack ganesha.nfsd:nfs-ganesha \
/usr/share/doc/nfs-ganesha-vfs:nfs-ganesha-vfs rpcbind:rpcbind nfs-cp:libnfs-utils"

PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
missing=
[ -n "${RUNTIME:-}" ] && want=$runtime || want="$runtime $test"
for pair in $want; do
	what=${pair%:*}
	case $what in
	/*) [ -e "$what" ] || missing="$missing ${pair##*:}" ;;
	*) command -v "$what" >/dev/null 2>&1 || missing="$missing ${pair##*:}" ;;
	esac
done
[ -z "$missing" ] && exit 0
if [ "$(id -u)" != 0 ]; then
	echo "deps.sh: these Debian packages are missing; install them: sudo apt-get install$missing" >&2
	exit 1
fi
echo "installing$missing"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086
apt-get install -y -qq --no-install-recommends $missing >/dev/null
