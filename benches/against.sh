#!/usr/bin/env bash
# against.sh OTHER-FLOE SOURCE WORK [PAIRS]
# Compares this build with another build of floe (for example, that of the commit before), in alternating pairs (5). Each
# build packs SOURCE and reads every file of its image through a mount, cold and warm, each pass on a fresh mount.
# PASSES="pack list_1" runs only these. OPTIONS="-o push" is given to this build's mount. Prints the median of each pass in
# seconds, in brackets that median divided by the other build's, and the median, minimum and maximum of the pairs' ratios.
source "$(dirname "$0")/lib.sh"
(($# >= 3)) || die "usage: against.sh OTHER-FLOE SOURCE WORK [PAIRS]"
other=$1 source=$2 work=$3 pairs=${4:-5}
need xargs awk find /usr/bin/time
need_floe
need_root
[[ -x $other ]] || die "no program $other"
mkdir -p "$work/mnt"
mnt=$work/mnt results=$work/against.tsv list=$work/files
: >"$results"
machine
echo "the other: $("$other" --version), $other"
program() { if [[ $1 == this ]]; then echo "$floe"; else echo "$other"; fi; }
(cd "$source" && find . -type f -print0 | LC_ALL=C sort -z) >"$list"
for build in this other; do
  [[ -e $work/$build.floe ]] || "$(program "$build")" pack -q "$source" "$work/$build.floe"
done

mounted() {
  local options=()
  # shellcheck disable=SC2206 # OPTIONS is split into words
  [[ $1 == other ]] || options=(${OPTIONS:-})
  "$(program "$1")" mount -o ro "${options[@]}" "$work/$1.floe" "$mnt"
  mountpoint -q "$mnt" || die "$1 is not mounted"
}
trap 'mountpoint -q "$mnt" && umount -l "$mnt"' EXIT

one() { # one BUILD PASS
  local wall user system memory
  if [[ $2 == pack ]]; then
    # The source is in the page cache: this measures the packer, not the disk.
    find "$source" -type f -print0 | xargs -0 cat >/dev/null
    rm -f "$work/packed.floe"
    measured "$work/time" "$(program "$1")" pack -q "$source" "$work/packed.floe"
    read -r wall user system memory <"$work/time"
    printf '%s\tpack\t%s\n' "$1" "$wall" >>"$results"
    printf '%s\tpack CPU\t%s\n' "$1" "$(awk -v u="$user" -v s="$system" 'BEGIN { print u + s }')" >>"$results"
    printf '%s\tpack MiB\t%s\n' "$1" "$(mib "$(stat -c %s "$work/packed.floe")")" >>"$results"
  else
    mounted "$1"
    drop_caches
    printf '%s\t%s cold\t%s\n' "$1" "$2" "$(seconds "$2")" >>"$results"
    printf '%s\t%s warm\t%s\n' "$1" "$2" "$(seconds "$2")" >>"$results"
    "$(program "$1")" umount "$mnt"
  fi
}

for ((pair = 1; pair <= pairs; pair++)); do
  # The build that goes first alternates.
  builds=(this other)
  ((pair % 2)) || builds=(other this)
  for pass in ${PASSES:-pack walk_1 walk_4 list_1 list_4 find_ls}; do
    for build in "${builds[@]}"; do
      echo "pair $pair of $pairs: $pass of $build" >&2
      one "$build" "$pass"
    done
  done
done
table "$results" other
echo "this build's figure divided by the other's, pair by pair:"
awk -F'\t' '
  { n[$1, $2]++; value[$1, $2, n[$1, $2]] = $3; if (!($2 in seen)) { seen[$2]; order[++measures] = $2 } }
  END {
    for (m = 1; m <= measures; m++) {
      name = order[m]; count = 0
      for (i = 1; i <= n["this", name]; i++) if (value["other", name, i] > 0) ratio[++count] = value["this", name, i] / value["other", name, i]
      for (i = 2; i <= count; i++) for (j = i; j > 1 && ratio[j] < ratio[j - 1]; j--) { t = ratio[j]; ratio[j] = ratio[j - 1]; ratio[j - 1] = t }
      if (count) printf "%-16s median %.3f   from %.3f to %.3f\n", name,
        (count % 2 ? ratio[(count + 1) / 2] : (ratio[count / 2] + ratio[count / 2 + 1]) / 2), ratio[1], ratio[count]
    }
  }' "$results"
