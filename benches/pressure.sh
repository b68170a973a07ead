#!/usr/bin/env bash
# pressure.sh SOURCE WORK [MIB [BUDGET [MEMORY]]]
# Measures how fast a mount takes data from a writer that is faster than the freezer. MIB (8,192) MiB of random bytes, and then
# as much text, are written to a mount with `-o budget=BUDGET` (512M), followed by `floe sync`. The mount's daemon is alone in a
# memory cgroup of MEMORY (1G). The same data, written with freeze=off and then frozen by `floe freeze` at level 3 while nothing
# else runs, is what the speed is compared with. The text is a tar archive of SOURCE that is repeated, with other letters in
# each copy, so that no data repeats. While the data is written, 4 KiB of a frozen file are read with O_DIRECT every 5 ms: the
# script prints how many reads took longer than 200 ms, the longest read, and the largest size of the thaw log.
# At the end a frozen tree is read in a loop, alone and while 2 GiB are frozen. Prints ratios. Image and log are in WORK.
source "$(dirname "$0")/lib.sh"
source "$here/../tests/workloads/limited.sh"
(($# >= 2)) || die "usage: pressure.sh SOURCE WORK [MIB [BUDGET [MEMORY]]]"
source=$1 work=$2 mib=${3:-8192} budget=${4:-512M} bytes=${5:-1G}
limit=3600
need awk tar tr dd openssl setsid mountpoint python3 pgrep
need_floe
need_root
[[ -d $source ]] || die "no directory $source"
mkdir -p "$work"
work=$(cd "$work" && pwd)/pressure.$$
mnt=$work/mnt limited_group=$work/group memory= group=
mkdir -p "$mnt"
finish() {
  kill_limited
  if mountpoint -q "$mnt"; then
    abort_connection "$(connection "$mnt")" || true
    umount -l "$mnt" || true
  fi
  [[ -z $memory ]] || rm -rf "$memory"
  [[ -z $group ]] || rmdir "$group" || true
  rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM HUP
free=$(df -m --output=avail "$work" | tail -n 1)
((free > 2 * mib + 2048)) || die "the disk of $work wants $((2 * mib + 2048)) MiB free, and has $free"
memory=$(mktemp -d -p /dev/shm)
tar cf "$memory/tar" -C "$source" .

# The cgroup of the daemon, of version 2 or 1.
if [[ -f /sys/fs/cgroup/cgroup.controllers ]]; then
  group=/sys/fs/cgroup/floe-pressure.$$ limit_file=memory.max
  echo +memory >/sys/fs/cgroup/cgroup.subtree_control
else
  group=/sys/fs/cgroup/memory/floe-pressure.$$ limit_file=memory.limit_in_bytes
fi
mkdir "$group"
echo "$bytes" >"$group/$limit_file"

random() { openssl enc -aes-128-ctr -pass pass:floe -nosalt -md sha256 </dev/zero 2>/dev/null | head -c "$((mib << 20))"; }
text() {
  local letters=abcdefghijklmnopqrstuvwxyz turn
  for ((turn = 0; ; turn = (turn + 1) % 26)); do
    tr "a-z" "${letters:turn}${letters:0:turn}" <"$memory/tar" || break
  done | head -c "$((mib << 20))"
}
in_group() { echo $BASHPID >"$group/cgroup.procs"; exec "$@"; }
# `head` ends the program that makes the data. That is no failure.
copy() { (set +o pipefail; "$1" 2>/dev/null | dd of="$mnt/data" bs=1M iflag=fullblock status=none) && "$floe" sync "$mnt"; }
image() { # image LEVEL OPTIONS: makes and mounts a new image
  rm -rf "$work"/disk.floe*
  "$floe" mkfs -C "zstd:$1" "$work/disk.floe" >&2
  "${@:3}" "$floe" mount -o "$2" "$work/disk.floe" "$mnt" >&2
}
state() { getfattr -n user.floe.state --only-values "$mnt" 2>/dev/null | awk -v name="$1" '$1 == name { print $2 }'; }
none() { "$@"; }

cat >"$work/reads.py" <<'P'
import mmap, os, random, sys, time
path, stop = sys.argv[1:3]
fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
size, buffer, took = os.fstat(fd).st_size, mmap.mmap(-1, 4096), []
while not os.path.exists(stop):
    begin = time.monotonic()
    os.preadv(fd, [buffer], random.randrange(size >> 12) << 12)
    took.append(time.monotonic() - begin)
    time.sleep(0.005)
took.sort()
late = sum(1 for t in took if t > 0.2)
print(f"{len(took)} reads of 4 KiB, {100 - 100 * late / len(took):.2f} % within 200 ms, p99.9 {took[len(took) * 999 // 1000] * 1e3:.1f} ms, longest {took[-1] * 1e3:.0f} ms")
P

machine
for data in random text; do
  image 3 freeze=off none
  copy "$data"
  alone=$(seconds "$floe" freeze "$mnt")
  limited 900 "$mnt" "$floe" umount "$mnt" >&2
  image 12 "budget=$budget" in_group &
  wait $!
  head -c 16M "$memory/tar" >"$mnt/read"
  "$floe" freeze "$mnt" >&2
  python3 "$work/reads.py" "$mnt/read" "$work/stop" >"$work/reads" &
  reader=$!
  : >"$work/log"
  while [[ ! -e $work/stop ]]; do state log_bytes >>"$work/log"; sleep 1; done &
  watcher=$!
  took=$(seconds copy "$data")
  touch "$work/stop"
  wait "$reader" "$watcher"
  rm "$work/stop"
  most=$(sort -n "$work/log" | tail -n 1)
  awk -v data="$data" -v alone="$alone" -v took="$took" -v mib="$mib" -v most="${most:-0}" 'BEGIN {
    printf "%s: freeze alone at level 3 %.1f s (%.0f MiB/s), written under pressure in %.1f s: %.2f of that speed (0.5 or more is asked for); thaw log at most %.0f MiB\n",
      data, alone, mib / alone, took, alone / took, most / 1048576 }'
  echo "$data: $(<"$work/reads")"
  limited 900 "$mnt" "$floe" umount "$mnt" >&2
done

# Reading while data is frozen.
image 12 freeze=off none
mkdir "$mnt/tree"
tar xf "$memory/tar" -C "$mnt/tree"
"$floe" freeze "$mnt" >&2
reads() { # prints how many bytes of small files are read in 15 s; each pass reads a 20th of them, after dropping the page cache
  local end=$((SECONDS + 15)) bytes=0 some
  while ((SECONDS < end)); do
    echo 1 >/proc/sys/vm/drop_caches
    some=$(find "$mnt/tree" -type f -size -64k | awk -v n=$RANDOM 'NR % 20 == n % 20 && ++some <= 2000' | tr '\n' '\0' | xargs -0 cat | wc -c)
    bytes=$((bytes + some))
  done
  echo "$bytes"
}
reads >/dev/null
alone=$(reads)
mib=2048
copy text
"$floe" freeze "$mnt" >&2 &
freeze=$!
beside=$(reads)
kill -0 "$freeze" 2>/dev/null && still="it went on" || still="it had ended before"
wait "$freeze"
awk -v a="$alone" -v b="$beside" -v still="$still" 'BEGIN { printf "reading a frozen tree: %.2f of the throughput while 2 GiB freeze (0.7 or more is asked for; %s)\n", b / a, still }'
limited 900 "$mnt" "$floe" umount "$mnt" >&2
