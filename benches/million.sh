#!/usr/bin/env bash
# million.sh WORK [FILES]
# Packs a tree of a million small files (1,000 in each directory). Measures how long mounting takes, and the memory of the
# mount's daemon before and after `find -ls` lists the tree. The tree and its image are made in WORK if they do not exist.
source "$(dirname "$0")/lib.sh"
(($# >= 1)) || die "usage: million.sh WORK [FILES]"
work=$1 files=${2:-1000000}
need awk find python3
need_floe
need_root
mkdir -p "$work/mnt"
tree=$work/million-$files image=$work/million-$files.floe mnt=$work/mnt
machine
[[ -e $tree/.complete ]] || python3 - "$tree" "$files" <<'PYTHON'
import os, sys
tree, files = sys.argv[1], int(sys.argv[2])
for first in range(0, files, 1000):
    folder = os.path.join(tree, f"{first // 100000:03}", f"{first // 1000:06}")
    os.makedirs(folder, exist_ok=True)
    for i in range(first, min(first + 1000, files)):
        with open(os.path.join(folder, f"file-{i:07}"), "w") as f:
            f.write(f"{i}\n")
open(os.path.join(tree, ".complete"), "w").close()
PYTHON
[[ -e $image ]] || {
  measured "$work/time" "$floe" pack -q "$tree" "$image"
  read -r wall user system memory <"$work/time"
  echo "packed in $wall s ($user + $system CPU), peak $((memory / 1024)) MiB, $(mib "$(stat -c %s "$image")") MiB"
}

for run in 1 2 3 4 5; do
  drop_caches
  printf 'floe\tmount s\t%s\n' "$(seconds "$floe" mount -o ro "$image" "$mnt")"
  "$floe" umount "$mnt"
done >"$work/million.tsv"
table "$work/million.tsv" none

find_ls() { find "$mnt" -ls >/dev/null; }
status() { sed -n "s/^$1:[[:space:]]*\([0-9]*\).*/\1/p" "/proc/$daemon/status"; }
drop_caches
"$floe" mount -f -o ro "$image" "$mnt" &
daemon=$!
trap 'mountpoint -q "$mnt" && umount -l "$mnt"' EXIT
until mountpoint -q "$mnt"; do kill -0 "$daemon" 2>/dev/null || die "the mount ended"; done
ls "$mnt" >/dev/null
echo "resident after mounting: $(($(status VmRSS) / 1024)) MiB"
echo "find -ls, cold: $(seconds find_ls) s"
echo "resident after find: $(($(status VmRSS) / 1024)) MiB, at most $(($(status VmHWM) / 1024)) MiB"
echo "find -ls, warm: $(seconds find_ls) s"
"$floe" umount "$mnt"
wait "$daemon"
