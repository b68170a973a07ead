#!/usr/bin/env bash
# memory.sh WORK SOURCE...
# Measures the peak resident memory of `floe pack` with default options, for each SOURCE and for all of them in one image.
# Then packs all of them again with --memory 512M in a cgroup (version 1 or 2) whose limit of 512 MiB includes page cache.
source "$(dirname "$0")/lib.sh"
(($# >= 2)) || die "usage: memory.sh WORK SOURCE..."
work=$1
shift
need awk /usr/bin/time
need_floe
need_root
mkdir -p "$work"
machine
limit=$((512 << 20))

show() { # show NAME IMAGE
  local wall user system memory
  read -r wall user system memory <"$work/time"
  printf '%-40s peak %5d MiB   wall %7s s   CPU %7s s   image %s MiB\n' "$1" "$((memory / 1024))" "$wall" \
    "$(awk -v u="$user" -v s="$system" 'BEGIN { print u + s }')" "$(mib "$(stat -c %s "$2")")"
}

for source; do
  rm -f "$work/memory.floe"
  measured "$work/time" "$floe" pack -q "$source" "$work/memory.floe"
  show "$(basename "$source")" "$work/memory.floe"
done
if (($# > 1)); then
  rm -f "$work/memory.floe"
  measured "$work/time" "$floe" pack -q "$@" "$work/memory.floe"
  show "all $# together" "$work/memory.floe"
fi

if [[ -e /sys/fs/cgroup/cgroup.controllers ]]; then
  group=/sys/fs/cgroup/floe-bench
  echo +memory >/sys/fs/cgroup/cgroup.subtree_control 2>/dev/null || true
  mkdir -p "$group"
  echo "$limit" >"$group/memory.max"
  echo 0 >"$group/memory.swap.max" 2>/dev/null || true
  peak=$group/memory.peak
  failures() { sed -n 's/^oom_kill //p' "$group/memory.events"; }
elif [[ -d /sys/fs/cgroup/memory ]]; then
  group=/sys/fs/cgroup/memory/floe-bench
  mkdir -p "$group"
  echo "$limit" >"$group/memory.limit_in_bytes"
  peak=$group/memory.max_usage_in_bytes
  failures() { sed -n 's/^oom_kill //p' "$group/memory.oom_control"; }
else
  die "no memory cgroup here"
fi
trap 'rmdir "$group"' EXIT
rm -f "$work/memory.floe"
# The shell joins the cgroup before it executes floe, so the cgroup counts all of floe's memory.
measured "$work/time" bash -c 'echo $$ >"$0/cgroup.procs" && exec "$@"' "$group" \
  "$floe" pack -q --memory 512M "$@" "$work/memory.floe"
show "all, --memory 512M in a cgroup" "$work/memory.floe"
echo "the cgroup's own peak: $(($(cat "$peak" 2>/dev/null || echo 0) >> 20)) of $((limit >> 20)) MiB with page cache, killed $(failures) times"
