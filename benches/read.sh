#!/usr/bin/env bash
# read.sh SOURCE WORK [RUNS [FLOE-OPTIONS...]]
# Reads every file of SOURCE through a mount of floe, the kernel's squashfs (zstd 15, 128 KiB), the kernel's EROFS (lz4hc,
# 64 KiB clusters) and squashfuse_ll; with one process and with four, and `find -ls`. Each cold pass is on a fresh mount
# with all caches dropped after mounting, and is followed by a warm one. Systems take turns. Prints medians of RUNS (5).
# Images are made in WORK if they do not exist. PASSES="walk_1 find_ls" runs only these.
# walk_N reads the files that `find` lists in the mount. list_N reads those of a list made from SOURCE: every path is looked up.
source "$(dirname "$0")/lib.sh"
(($# >= 2)) || die "usage: read.sh SOURCE WORK [RUNS [FLOE-OPTIONS...]]"
source=$1 work=$2 runs=${3:-5}
shift $(($# < 3 ? $# : 3))
need mksquashfs mkfs.erofs squashfuse_ll xargs awk find
need_floe
need_root
mkdir -p "$work/mnt"
mnt=$work/mnt results=$work/read.tsv list=$work/files
: >"$results"
machine
zcat /proc/config.gz 2>/dev/null | grep -E '^CONFIG_SQUASHFS_DECOMP' || true

[[ -e $work/image.floe ]] || "$floe" pack -q "$@" "$source" "$work/image.floe"
[[ -e $work/128K.squashfs ]] || mksquashfs "$source" "$work/128K.squashfs" -noappend -quiet -no-progress \
  -comp zstd -Xcompression-level 15 -b 128K
[[ -e $work/image.erofs ]] || mkfs.erofs -zlz4hc -C65536 "$work/image.erofs" "$source" >/dev/null
(cd "$source" && find . -type f -print0 | LC_ALL=C sort -z) >"$list"
echo "$(tr -cd '\0' <"$list" | wc -c) files; images, MiB: floe $(mib "$(stat -c %s "$work/image.floe")")," \
  "squashfs $(mib "$(stat -c %s "$work/128K.squashfs")"), EROFS $(mib "$(stat -c %s "$work/image.erofs")")"

mounted() {
  case $1 in
  floe) "$floe" mount -o ro "$work/image.floe" "$mnt" ;;
  squashfs) mount -t squashfs -o loop,ro "$work/128K.squashfs" "$mnt" ;;
  erofs) mount -t erofs -o loop,ro "$work/image.erofs" "$mnt" ;;
  squashfuse_ll) squashfuse_ll "$work/128K.squashfs" "$mnt" ;;
  esac
  mountpoint -q "$mnt" || die "$1 is not mounted"
}
unmounted() { if [[ $1 == floe ]]; then "$floe" umount "$mnt"; else umount "$mnt"; fi; }
trap 'mountpoint -q "$mnt" && umount -l "$mnt"' EXIT

for ((run = 1; run <= runs; run++)); do
  for system in floe squashfs erofs squashfuse_ll; do
    for pass in ${PASSES:-walk_1 walk_4 list_1 list_4 find_ls}; do
      echo "run $run of $runs: $system $pass" >&2
      mounted "$system"
      drop_caches
      printf '%s\t%s cold\t%s\n' "$system" "$pass" "$(seconds "$pass")" >>"$results"
      printf '%s\t%s warm\t%s\n' "$system" "$pass" "$(seconds "$pass")" >>"$results"
      unmounted "$system"
    done
  done
done
echo "seconds, and in brackets divided by the kernel's squashfs:"
table "$results" squashfs
echo "how many times faster floe is:"
medians "$results" | awk -F'\t' '
  { value[$1, $2] = $3; if (!($2 in seen)) { seen[$2]; order[++n] = $2 } }
  END {
    for (i = 1; i <= n; i++) { m = order[i]; f = value["floe", m]
      if (f > 0) printf "%-16s squashfs %.2f   squashfuse_ll %.2f   EROFS %.2f\n", m,
        value["squashfs", m] / f, value["squashfuse_ll", m] / f, value["erofs", m] / f }
  }'
