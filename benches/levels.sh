#!/usr/bin/env bash
# levels.sh SOURCE WORK [CODEC:LEVEL...]
# Measures the size and time of `floe pack` at each level (zstd 1 to 19 by default), with the source in the page cache. The
# default level was chosen by these figures. In brackets each figure is divided by that of zstd:12.
source "$(dirname "$0")/lib.sh"
(($# >= 2)) || die "usage: levels.sh SOURCE WORK [CODEC:LEVEL...]"
source=$1 work=$2
shift 2
(($#)) || set -- zstd:1 zstd:3 zstd:5 zstd:6 zstd:7 zstd:8 zstd:9 zstd:10 zstd:11 zstd:12 zstd:13 zstd:15 zstd:17 zstd:19
need awk /usr/bin/time
need_floe
mkdir -p "$work"
results=$work/levels.tsv image=$work/level.floe
: >"$results"
machine
find "$source" -type f -print0 | xargs -0 cat >/dev/null
for level; do
  echo "$level" >&2
  rm -f "$image"
  measured "$work/time" "$floe" pack -q -C "$level" "$source" "$image"
  read -r wall user system memory <"$work/time"
  {
    printf '%s\tMiB\t%s\n' "$level" "$(mib "$(stat -c %s "$image")")"
    printf '%s\tCPU s\t%s\n' "$level" "$(awk -v u="$user" -v s="$system" 'BEGIN { print u + s }')"
    printf '%s\twall s\t%s\n' "$level" "$wall"
    printf '%s\tpeak MiB\t%s\n' "$level" "$((memory / 1024))"
  } >>"$results"
done
table "$results" zstd:12
