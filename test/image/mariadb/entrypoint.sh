#!/bin/sh
# Starts MariaDB in a container, the way the official MySQL and MariaDB images are used: it sets up the data
# directory where that is empty, then becomes the server.
#
# Environment, each also as MARIADB_...; those marked * also as NAME_FILE, the name of a file with the value:
#   MYSQL_ROOT_PASSWORD *           root's password; needed for the set-up
#   MYSQL_ALLOW_EMPTY_PASSWORD      not empty: root needs no password
#   MYSQL_ROOT_HOST                 from where root may log in beside localhost, by default "%"
#   MYSQL_DATABASE *                a database to make
#   MYSQL_USER *, MYSQL_PASSWORD *  a user to make, with all rights on that database
set -eu

say() {
	echo "entrypoint: $*" >&2
}

die() {
	say "$*"
	exit 1
}

case "${1:-mysqld}" in
-*) set -- mysqld "$@" ;;
mysqld | mariadbd) ;;
*) exec "$@" ;; # a shell, a client
esac

# setting NAME prints the value of MARIADB_NAME or MYSQL_NAME, or of the file that either with _FILE names.
setting() {
	for prefix in MARIADB MYSQL; do
		eval "value=\${${prefix}_$1:-} file=\${${prefix}_$1_FILE:-}"
		if [ -n "$file" ]; then
			[ -z "$value" ] || die "both ${prefix}_$1 and ${prefix}_$1_FILE are set: set one of them"
			[ -r "$file" ] || die "${prefix}_$1_FILE names $file, which cannot be read"
			value=$(cat "$file")
		fi
		if [ -n "$value" ]; then
			printf %s "$value"
			return
		fi
	done
}

# text and name print their argument as an SQL string and as an SQL identifier.
text() {
	printf "'%s'" "$(printf %s "$1" | sed -e 's/\\/\\\\/g' -e "s/'/''/g")"
}
name() {
	printf '`%s`' "$(printf %s "$1" | sed -e 's/`/``/g')"
}

# accounts prints the SQL that makes the accounts and the database.
accounts() {
	password=$(setting ROOT_PASSWORD)
	host=$(setting ROOT_HOST)
	database=$(setting DATABASE)
	user=$(setting USER)
	# MariaDB makes one root, without a password, for each name and address of this host.
	echo "DELETE FROM mysql.global_priv WHERE User = 'root' AND Host <> 'localhost';"
	# The bootstrap server knows the tables it has just made only after this.
	echo "FLUSH PRIVILEGES;"
	echo "ALTER USER root@localhost IDENTIFIED BY $(text "$password");"
	if [ "${host:=%}" != localhost ]; then
		echo "CREATE USER root@$(text "$host") IDENTIFIED BY $(text "$password");"
		echo "GRANT ALL ON *.* TO root@$(text "$host") WITH GRANT OPTION;"
	fi
	if [ -n "$database" ]; then
		echo "CREATE DATABASE $(name "$database");"
	fi
	if [ -n "$user" ]; then
		echo "CREATE USER $(text "$user")@'%' IDENTIFIED BY $(text "$(setting PASSWORD)");"
		if [ -n "$database" ]; then
			echo "GRANT ALL ON $(name "$database").* TO $(text "$user")@'%';"
		fi
	fi
}

data=/var/lib/mysql
# While this file exists, whatever else is in the directory is of a set-up that never ended.
marker=$data/.set-up-incomplete

mkdir -p /run/mysqld # where /run is a tmpfs
as=
if [ "$(id -u)" = 0 ]; then
	chown mysql:mysql $data /run/mysqld
	as=--user=mysql
fi

# An ext4 volume brings a lost+found of its own.
contents() {
	find $data -mindepth 1 -maxdepth 1 ! -name lost+found "$@"
}

if [ -e $marker ]; then
	say "an earlier set-up of $data was cut short: doing it again"
	contents ! -path $marker -exec rm -rf {} +
fi
if [ -e $marker ] || [ -z "$(contents)" ]; then
	if [ -z "$(setting ROOT_PASSWORD)" ] && [ -z "$(setting ALLOW_EMPTY_PASSWORD)" ]; then
		die "$data is empty and there is no password for root: set MYSQL_ROOT_PASSWORD (or MYSQL_ROOT_PASSWORD_FILE)"
	fi
	say "setting up $data"
	touch $marker
	sync -f $data
	umask 077
	sql=$(mktemp)
	log=$(mktemp)
	child=
	trap '[ -z "$child" ] || kill "$child" 2>/dev/null; rm -f "$sql" "$log"; exit 143' TERM INT
	accounts >"$sql"
	[ -z "$as" ] || chown mysql "$sql"
	# In the background, since a shell runs no trap while it waits for a command.
	mariadb-install-db $as --datadir=$data --skip-test-db --skip-name-resolve --force \
		--auth-root-authentication-method=normal --extra-file="$sql" >"$log" &
	child=$!
	wait $child || {
		cat "$log" >&2 # a page of advice, of use in this case alone
		rm -f "$sql" "$log"
		die "the set-up failed: see above; it is done again at the next start"
	}
	trap - TERM INT
	rm -f "$sql" "$log"
	sync -f $data
	rm $marker
	umask 022
	say "$data is set up"
fi

# The passwords are in the data directory now: not in the server's environment as well.
unset MYSQL_ROOT_PASSWORD MARIADB_ROOT_PASSWORD MYSQL_PASSWORD MARIADB_PASSWORD
exec "$@" $as
