#!/usr/bin/env bash
# pack.sh SOURCE WORK [RUNS [FLOE-OPTIONS...]]
# Compares size, wall time and CPU time of `floe pack` with `mksquashfs -comp zstd -Xcompression-level 15 -b 1M`. They run
# in turns, with the source in the page cache. Prints medians of RUNS (3); times are in seconds.
source "$(dirname "$0")/lib.sh"
(($# >= 2)) || die "usage: pack.sh SOURCE WORK [RUNS [FLOE-OPTIONS...]]"
source=$1 work=$2 runs=${3:-3}
shift $(($# < 3 ? $# : 3))
need mksquashfs awk /usr/bin/time
need_floe
mkdir -p "$work"
results=$work/pack.tsv
: >"$results"
machine
find "$source" -type f -print0 | xargs -0 cat >/dev/null

one() { # one NAME IMAGE COMMAND...
  local name=$1 image=$2 wall user system memory
  shift 2
  rm -f "$image"
  measured "$work/time" "$@"
  read -r wall user system memory <"$work/time"
  {
    printf '%s\twall s\t%s\n' "$name" "$wall"
    printf '%s\tCPU s\t%s\n' "$name" "$(awk -v u="$user" -v s="$system" 'BEGIN { print u + s }')"
    printf '%s\tMiB\t%s\n' "$name" "$(mib "$(stat -c %s "$image")")"
    printf '%s\tpeak MiB\t%s\n' "$name" "$((memory / 1024))"
  } >>"$results"
}

for ((run = 1; run <= runs; run++)); do
  echo "run $run of $runs" >&2
  one squashfs-1M "$work/1M.squashfs" mksquashfs "$source" "$work/1M.squashfs" -noappend -quiet -no-progress \
    -comp zstd -Xcompression-level 15 -b 1M
  one floe "$work/floe.floe" "$floe" pack -q "$@" "$source" "$work/floe.floe"
done
table "$results" squashfs-1M
