#!/bin/sh
# The demo of "make demo": MySQL on a StatefulSet whose data outlives its pods and the cluster's restart. It makes a
# cluster of its own, in a new directory and a network namespace, and removes it at the end, whatever happens.
#
# Usage, as root: demo.sh [--keep]
#   --keep   leave the cluster running and say how to remove it
# Environment: ORLOP, the orlop binary (default bin/orlop); IMAGE, the image archive (default bin/images/mariadb.tar).
set -eu

cd "$(dirname "$0")/../../.."
orlop=${ORLOP:-bin/orlop}
image=${IMAGE:-bin/images/mariadb.tar}
keep=
case "${1:-}" in
--keep) keep=yes ;;
'') ;;
*)
	echo "usage: $0 [--keep]" >&2
	exit 2
	;;
esac

now() { date +%s; }

bold=
plain=
if [ -t 1 ]; then
	bold=$(printf '\033[1m')
	plain=$(printf '\033[0m')
fi

step=
chapter=0
# story HEADING TEXT... begins a step.
story() {
	chapter=$((chapter + 1))
	step=$1
	printf '\n%s%d. %s%s\n' "$bold" "$chapter" "$1" "$plain"
	shift
	for line in "$@"; do
		printf '   %s\n' "$line"
	done
	echo
}

# show prints a command the way one would type it.
show() {
	printf '$'
	for word in "$@"; do
		case "$word" in
		*[!A-Za-z0-9_./:=,@%+-]* | '') printf " '%s'" "$word" ;;
		*) printf ' %s' "$word" ;;
		esac
	done
	echo
}

run() {
	show "$@"
	"$@"
}

# eventually SECONDS COMMAND... repeats a command until it succeeds.
eventually() {
	end=$(($(now) + $1))
	shift
	until "$@" >"$out" 2>&1; do
		if [ "$(now)" -ge "$end" ]; then
			cat "$out"
			return 1
		fi
		sleep 0.1
	done
	cat "$out"
}

# sql POD HOST STATEMENT runs a statement with the client in one pod on the server at a host.
sql() {
	"$orlop" kubectl exec "$1" -- sh -c 'MYSQL_PWD=$MYSQL_ROOT_PASSWORD exec mysql -u root -h "$0" --connect-timeout=2 -t -e "$1"' "$2" "$3"
}

# expect TEXT COMMAND... shows a command's output once it holds the text; the command is tried for 30 s.
expect() {
	want=$1
	shift
	eventually 30 holds "$want" "$@"
}

holds() {
	want=$1
	shift
	answer=$("$@" 2>&1) || {
		echo "$answer"
		return 1
	}
	echo "$answer"
	case "$answer" in
	*"$want"*) ;;
	*)
		echo "(no \"$want\" in this)"
		return 1
		;;
	esac
}

# diagnose prints what one would look at next.
diagnose() {
	set +e
	echo
	echo "What the cluster says:"
	run "$orlop" status
	run "$orlop" kubectl get pods,pvc,pv -o wide
	run "$orlop" kubectl describe pods,pvc | tail -n 80
	run "$orlop" kubectl get events --sort-by=.lastTimestamp | tail -n 30
	for pod in mysql-0 mysql-1; do
		run "$orlop" kubectl logs "$pod" --tail=30
	done
	for log in "$ORLOP_DATA_DIR"/logs/storage-*.log "$ORLOP_DATA_DIR"/logs/kubelet.log; do
		[ -f "$log" ] && run tail -n 15 "$log"
	done
}

finish() {
	status=$?
	trap - EXIT
	trap '' INT TERM # the cluster must not outlive the demo
	if [ "$status" -gt 128 ]; then
		printf '\nInterrupted: removing the cluster.\n'
	elif [ "$status" -ne 0 ]; then
		printf '\n%sThe demo failed at step %d, "%s" (exit status %d).%s\n' "$bold" "$chapter" "$step" "$status" "$plain"
		diagnose 2>&1
	fi
	if [ -n "$keep" ]; then
		echo "The cluster is left as it is. To remove it: $orlop --data-dir $ORLOP_DATA_DIR down --purge"
	elif [ -d "$ORLOP_DATA_DIR" ]; then
		"$orlop" down --purge >"$out" 2>&1 || {
			cat "$out"
			echo "The cluster could not be removed: run $orlop --data-dir $ORLOP_DATA_DIR down --purge"
			[ "$status" -ne 0 ] || status=1
		}
	fi
	rm -f "$out"
	exit "$status"
}

[ "$(id -u)" = 0 ] || {
	echo "$0: containers and volumes need root: run it with sudo" >&2
	exit 1
}
[ -x "$orlop" ] || {
	echo "$0: $orlop is missing: run \"make build\"" >&2
	exit 1
}

began=$(now)
ORLOP_DATA_DIR=$(mktemp -d /var/tmp/orlop-demo.XXXXXX)
export ORLOP_DATA_DIR
out=$(mktemp)
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
echo "A cluster of its own in $ORLOP_DATA_DIR (the commands below find it by ORLOP_DATA_DIR)."

story 'Start a Kubernetes cluster' 'Upstream Kubernetes and etcd, one process each, in a network namespace.'
run "$orlop" up --netns
run "$orlop" kubectl get nodes,storageclass

story 'Bring an image of MySQL' \
	"MariaDB, built from Debian's packages: no registry is needed. With one, the same manifests run mysql:8."
mkdir -p "$(dirname "$image")"
run go run ./test/image -kind mariadb -o "$image"
run "$orlop" images import "$image"

story 'Run two servers, each with a volume' \
	'The StatefulSet has a template for claims; the default StorageClass makes a volume for each.'
run "$orlop" kubectl apply -k deploy/examples/mysql
run "$orlop" kubectl rollout status statefulset/mysql --timeout=60s
run "$orlop" kubectl get pods,pvc

story 'Write rows by name' 'From the pod mysql-1 to the server mysql-0.mysql, its name in the headless Service.'
rows="CREATE DATABASE shop; CREATE TABLE shop.orders (id INT PRIMARY KEY, item VARCHAR(20));
INSERT INTO shop.orders VALUES (1, 'rope'), (2, 'sailcloth'), (3, 'tar'); SELECT * FROM shop.orders;"
read_rows='SELECT * FROM shop.orders;'
printf '$ mysql -h mysql-0.mysql -e "%s"   # in mysql-1\n' "$rows"
eventually 15 sql mysql-1 mysql-0.mysql 'SELECT 1' >/dev/null
sql mysql-1 mysql-0.mysql "$rows"

story 'Delete the pod' 'The StatefulSet starts it again under the same name, with the same volume.'
uid=$("$orlop" kubectl get pod mysql-0 -o 'jsonpath={.metadata.uid}')
run "$orlop" kubectl delete pod mysql-0
eventually 30 "$orlop" kubectl wait --for=condition=Ready pod/mysql-0 --timeout=30s
[ "$("$orlop" kubectl get pod mysql-0 -o 'jsonpath={.metadata.uid}')" != "$uid" ] || {
	echo 'mysql-0 is still the same pod'
	exit 1
}
printf '$ mysql -h mysql-0.mysql -e "%s"   # in mysql-1\n' "$read_rows"
expect sailcloth sql mysql-1 mysql-0.mysql "$read_rows"

story 'Fill the volume' 'A claim of 512Mi is 512Mi: more does not fit, whatever the disk beneath has free.'
run "$orlop" kubectl exec mysql-1 -- df -h /var/lib/mysql
show "$orlop" kubectl exec mysql-1 -- dd if=/dev/zero of=/var/lib/mysql/too-big bs=1M count=600
if full=$("$orlop" kubectl exec mysql-1 -- dd if=/dev/zero of=/var/lib/mysql/too-big bs=1M count=600 2>&1); then
	echo "$full"
	echo 'A volume of 512Mi took 600 MiB.'
	exit 1
fi
echo "$full" | grep 'No space left on device'
run "$orlop" kubectl exec mysql-1 -- df -h /var/lib/mysql
run "$orlop" kubectl exec mysql-1 -- rm /var/lib/mysql/too-big

story 'Stop the whole cluster, and start it again' 'Every process ends and every volume is unmounted; then all comes back.'
run "$orlop" down
run "$orlop" up
printf '$ mysql -h mysql-0.mysql -e "%s"   # in mysql-1\n' "$read_rows"
expect sailcloth sql mysql-1 mysql-0.mysql "$read_rows"
run "$orlop" kubectl get pvc,pv
for claim in data-mysql-0 data-mysql-1; do
	phase=$("$orlop" kubectl get pvc "$claim" -o 'jsonpath={.status.phase}')
	[ "$phase" = Bound ] || {
		echo "the claim $claim is $phase, not Bound"
		exit 1
	}
done

if [ -z "$keep" ]; then
	story 'Remove it' 'The cluster, its volumes and its data.'
	run "$orlop" down --purge
	[ ! -e "$ORLOP_DATA_DIR" ] || {
		echo "$ORLOP_DATA_DIR is still there"
		exit 1
	}
fi
printf '\n%sDone in %d seconds: three rows survived a deleted pod and a restarted cluster.%s\n' \
	"$bold" "$(($(now) - began))" "$plain"
