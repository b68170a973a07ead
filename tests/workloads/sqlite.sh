#!/usr/bin/env bash
# sqlite.sh DIR: SQLite in WAL mode in the empty directory DIR: rows, transactions from two processes, a checkpoint, VACUUM,
# integrity_check.
source "$(dirname "$0")/lib.sh"
(($# == 1)) || die "usage: sqlite.sh DIR"
dir=$(empty_directory "$1")
need sqlite3
db=$dir/test.db
sql() { sqlite3 -bail -cmd '.timeout 60000' "$db" "$@"; }
step "WAL mode"
# WAL needs shared memory: another answer means that mmap of test.db-shm was refused.
[[ $(sql 'PRAGMA journal_mode=WAL') == wal ]] || die "no WAL mode here"
sql 'CREATE TABLE t (id INTEGER PRIMARY KEY, writer TEXT, body BLOB); CREATE INDEX by_writer ON t (writer, id)'
step "200,000 rows in one transaction"
sql "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200000)
     INSERT INTO t (writer, body) SELECT 'bulk', randomblob(100 + i % 200) FROM n"
step "two writers, 300 transactions each"
writer() { # writer NAME: one connection, each statement its own transaction and sync
  local i
  { echo 'PRAGMA synchronous=FULL;'
    for ((i = 0; i < 300; i++)); do echo "INSERT INTO t (writer, body) VALUES ('$1', randomblob(500));"; done
  } | sqlite3 -bail -cmd '.timeout 60000' "$db"
}
writer a & one=$!
writer b & two=$!
wait "$one"
wait "$two"
[[ $(sql "SELECT count(*) FROM t WHERE writer IN ('a', 'b')") == 600 ]] || die "rows are missing"
step "delete, checkpoint, VACUUM"
sql "DELETE FROM t WHERE id % 3 = 0; PRAGMA wal_checkpoint(TRUNCATE); VACUUM" >/dev/null
step "integrity_check"
[[ $(sql 'PRAGMA integrity_check') == ok ]] || die "integrity_check"
[[ $(sql 'SELECT count(*) FROM t') == 133734 ]] || die "$(sql 'SELECT count(*) FROM t') rows"
step "done"
