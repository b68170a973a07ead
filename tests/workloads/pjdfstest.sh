#!/usr/bin/env bash
# pjdfstest.sh DIR
# pjdfstest (crate pjdfstest 0.2.2, `cargo install pjdfstest --version 0.2.2`; PJDFSTEST names the program), as root, in the
# empty directory DIR. Compares the cases that fail with pjdfstest-fails.txt, which says for each why it fails; on ext4 none
# does. Fails where another case fails, or one of the list passes.
source "$(dirname "$0")/lib.sh"
(($# == 1)) || die "usage: pjdfstest.sh DIR"
((EUID == 0)) || die "needs root"
dir=$(empty_directory "$1")
pjdfstest=${PJDFSTEST:-$(command -v pjdfstest || echo /work/tools/bin/pjdfstest)}
need "$pjdfstest" comm
work=$(mktemp -d)
other=$(mktemp -d -p /dev/shm)
trap 'rm -rf "$work" "$other"' EXIT
# Its users have to reach DIR, and the other filesystem for EXDEV.
chmod 755 "$dir" "$other" "$work"
status=0
# By a short path: those of its sockets may have 107 bytes.
ln -s "$dir" "$work/p"
"$pjdfstest" -c "$here/pjdfstest.toml" -p "$work/p" -s "$other" >"$work/said" 2>&1 || status=$?
summary=$(grep '^Summary: ' "$work/said") || { tail -n 40 "$work/said"; die "it ended with status $status and no summary"; }
echo "$summary"
awk '$2 == "FAILED" || $2 == "failed" { print $1 }' "$work/said" | sort -u >"$work/failed"
expected=$here/pjdfstest-fails.txt
[[ $(stat -f -c %T "$dir") != fuseblk && $(stat -f -c %T "$dir") != fuse ]] && expected=/dev/null
sed 's/[[:space:]]*#.*//; /^$/d' "$expected" | sort -u >"$work/expected"
comm -23 "$work/failed" "$work/expected" >"$work/new"
comm -13 "$work/failed" "$work/expected" >"$work/gone"
while read -r case; do
  echo "fails, and is not in the list: $case"
  grep -F -A12 -- "$case " "$work/said" | head -n 13
done <"$work/new"
sed 's/^/passes, and is in the list: /' "$work/gone"
[[ ! -s $work/new && ! -s $work/gone ]]
