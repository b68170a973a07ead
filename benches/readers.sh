#!/usr/bin/env bash
# readers.sh SOURCE WORK [READERS [CACHE-MIB [FILES]]]
# Measures the peak resident memory of a mount's daemon while READERS processes (64) read FILES files each (300), each process
# in its own random order, through a fresh mount with cache=CACHE-MIB (64). Fails if the peak is above the cache plus 64 MiB.
# The image is made in WORK if it does not exist. OPTIONS="threads=16" are further mount options.
source "$(dirname "$0")/lib.sh"
(($# >= 2)) || die "usage: readers.sh SOURCE WORK [READERS [CACHE-MIB [FILES]]]"
source=$1 work=$2 readers=${3:-64} cache=${4:-64} files=${5:-300}
need shuf xargs find
need_floe
need_root
mkdir -p "$work/mnt"
mnt=$work/mnt list=$work/files
machine
[[ -e $work/image.floe ]] || "$floe" pack -q "$source" "$work/image.floe"
(cd "$source" && find . -type f -print0 | LC_ALL=C sort -z) >"$list"

"$floe" mount -f -o "ro,cache=${cache}M${OPTIONS:+,$OPTIONS}" "$work/image.floe" "$mnt" &
daemon=$!
trap 'mountpoint -q "$mnt" && umount -l "$mnt"' EXIT
for ((n = 0; n < 100; n++)); do mountpoint -q "$mnt" && break || sleep 0.1; done
mountpoint -q "$mnt" || die "not mounted"
drop_caches

seeded() { while echo "$1"; do :; done; } # the same random order for the same reader
reader() {
  (cd "$mnt" && shuf -z -n "$files" --random-source=<(seeded "$1") "$list" | xargs -0 cat >/dev/null)
}
begin=${EPOCHREALTIME/[.,]/}
for ((n = 1; n <= readers; n++)); do reader "$n" & pids[n]=$!; done
for pid in "${pids[@]}"; do wait "$pid" || die "a reader failed"; done
end=${EPOCHREALTIME/[.,]/}
peak=$(awk '/^VmHWM:/ { print int($2 / 1024 + 0.999) }' "/proc/$daemon/status")
parts=$(awk '/^Rss(Anon|File):/ { printf "%s %d MiB  ", $1, $2 / 1024 }' "/proc/$daemon/status")
"$floe" umount "$mnt"
trap - EXIT
echo "$readers readers of $files files in random order, cache ${cache} MiB: peak $peak MiB, $((cache + 64)) at most;" \
  "now ${parts}$(((end - begin) / 1000000)) s"
((peak <= cache + 64))
