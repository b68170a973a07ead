#!/usr/bin/env bash
# postgres.sh DIR: PostgreSQL (PGBIN, 15 by default) in the empty directory DIR, run by the user postgres: initdb with
# checksums, pgbench, stop, restart, a second start after SIGQUIT (recovery from its log), amcheck, pg_checksums.
source "$(dirname "$0")/lib.sh"
(($# == 1)) || die "usage: postgres.sh DIR"
dir=$(empty_directory "$1")
pgbin=${PGBIN:-/usr/lib/postgresql/15/bin}
need "$pgbin/initdb" "$pgbin/pg_ctl" "$pgbin/pgbench" "$pgbin/pg_amcheck" setpriv psql
((EUID == 0)) || die "needs root, to become postgres"
chown postgres: "$dir"
# Its sockets lie outside: a path of a socket has 107 bytes at most.
run=$(mktemp -d)
chown postgres: "$run"
export PGHOST=$run PGDATABASE=postgres PGPORT=54329 HOME=$run
as() { (cd "$run" && setpriv --reuid postgres --regid postgres --init-groups -- "$@"); }
data=$dir/data
control() { as "$pgbin/pg_ctl" -s -w -t 120 -D "$data" -l "$dir/log" "$@" </dev/null; }
finish() {
  [[ ! -e $data/postmaster.pid ]] || control stop -m immediate 2>/dev/null || true
  rm -rf "$run"
}
trap finish EXIT
step "initdb"
as "$pgbin/initdb" -D "$data" -k -A trust -E UTF8 --locale=C >"$run/said" 2>&1 || { cat "$run/said"; die "initdb"; }
cat >>"$data/postgresql.conf" <<CONF
listen_addresses = ''
unix_socket_directories = '$run'
port = 54329
shared_buffers = 64MB
CONF
step "start"
control start
step "pgbench -i -s 10"
as "$pgbin/pgbench" -i -q -s 10 2>"$run/said" || { cat "$run/said"; die "pgbench -i"; }
step "pgbench, 4 clients, 20 s"
as "$pgbin/pgbench" -n -c 4 -j 2 -T 20 2>/dev/null | grep -E '^(tps|number of transactions actually)'
step "stop, restart"
control stop -m fast
control start
control restart -m fast
step "stopped without a checkpoint, recovered"
as "$pgbin/pgbench" -n -c 4 -j 2 -t 500 >/dev/null 2>&1
before=$(as psql -Atc 'SELECT count(*), sum(delta) FROM pgbench_history')
control stop -m immediate
control start
[[ $(as psql -Atc 'SELECT count(*), sum(delta) FROM pgbench_history') == "$before" ]] || die "transactions are missing"
[[ $(as psql -Atc 'SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(tbalance) FROM pgbench_tellers)') == t ]] ||
  die "the balances differ"
step "amcheck"
as psql -qc 'CREATE EXTENSION amcheck' >/dev/null
as "$pgbin/pg_amcheck" --heapallindexed --parent-check -d postgres
step "stop, checksums"
control stop -m fast
as "$pgbin/pg_checksums" --check -D "$data" | grep -E '^(Bad|Files)'
step "done"
