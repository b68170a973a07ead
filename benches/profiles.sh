#!/usr/bin/env bash
# profiles.sh SOURCE... WORK
# Prints the figures that the profiles were chosen by, one line for each setting of `floe pack`. For packing they are the size,
# CPU and wall time in seconds, and peak memory, with the sources in the page cache. For each size of the working set a fresh
# mount is read with cold caches. One process reads every file in path order: seconds, and inflated bytes per byte read. Then
# 4 KiB are read at random places: 50th and 99th percentile in milliseconds.
#
# SETTINGS: settings to measure, separated by blanks. Each is CODEC:LEVEL/SUPERCHUNK[/PART], or profile=NAME.
# CACHES: sizes of the working set in MiB ("64 256"). With CACHES="" nothing is mounted, and root is not needed.
# READS: random reads in each pass (400), which takes at most SECONDS_EACH seconds (20).
source "$(dirname "$0")/lib.sh"
(($# >= 2)) || die "usage: profiles.sh SOURCE... WORK"
sources=("${@:1:$#-1}") work=${*: -1}
caches=${CACHES-64 256}
default="zstd:1/4M zstd:3/4M zstd:6/4M zstd:9/4M zstd:12/4M zstd:15/4M zstd:19/4M zstd:22/4M xz:6/4M xz:9/4M"
default+=" zstd:3/1M zstd:12/1M zstd:12/16M zstd:19/16M zstd:22/16M xz:9/16M zstd:12/64M zstd:22/64M"
default+=" zstd:12/4M/64K zstd:12/4M/128K zstd:12/4M/256K zstd:12/4M/512K"
settings=${SETTINGS:-$default}
need awk find perl xargs /usr/bin/time
need_floe
[[ -z $caches ]] || { need_root; need getfattr; }
mkdir -p "$work/mnt"
mnt=$work/mnt image=$work/profile.floe
trap 'mountpoint -q "$mnt" && umount -l "$mnt"; rm -f "$image"' EXIT

# Prints the 50th and 99th percentile, in milliseconds, of reads of 4 KiB at random places of the mount's files. A larger file
# is chosen more often. The file is opened before the time is taken.
random_reads() {
  (cd "$mnt" && find . -type f -size +0 -printf '%s %p\0') | sort -z -k2 | perl -0 -MTime::HiRes=time -e '
    my ($mnt, $reads, $seconds) = splice @ARGV, 0, 3;
    my (@ends, @names, $total);
    while (<STDIN>) { chomp; my ($size, $name) = split / /, $_, 2; $total += int(($size + 4095) / 4096); push @ends, $total; push @names, $name }
    srand 1;
    my ($until, @times) = time + $seconds;
    while (@times < $reads && time < $until) {
      my $page = int rand $total;
      my ($low, $high) = (0, $#ends);
      while ($low < $high) { my $half = int(($low + $high) / 2); $ends[$half] > $page ? ($high = $half) : ($low = $half + 1) }
      open my $file, "<:raw", "$mnt/$names[$low]" or die "$names[$low]: $!";
      sysseek $file, 4096 * ($page - ($low ? $ends[$low - 1] : 0)), 0;
      my $begin = time;
      defined sysread $file, my $bytes, 4096 or die "$names[$low]: $!";
      push @times, 1000 * (time - $begin);
    }
    @times = sort { $a <=> $b } @times;
    printf "%.1f\t%.1f\n", $times[@times / 2], $times[int(@times * 0.99)];
  ' "$mnt" "${READS:-400}" "${SECONDS_EACH:-20}"
}

counter() { getfattr --only-values -n user.floe.counters "$mnt" | awk -v name="$1" '$1 == name { print $2 }'; }

fresh() { # fresh MIB: makes a new mount with cold caches
  ! mountpoint -q "$mnt" || "$floe" umount "$mnt"
  "$floe" mount -q -o "ro,cache=${1}M" "$image" "$mnt"
  drop_caches
}

machine
find "${sources[@]}" -type f -print0 | xargs -0 cat >/dev/null
{
  printf 'setting\tMiB\tpack CPU s\twall s\tpeak MiB'
  for cache in $caches; do printf '\torder s @%s\tcost\tp50 ms\tp99 ms' "$cache"; done
  echo
  for setting in $settings; do
    echo "$setting" >&2
    rm -f "$image"
    if [[ $setting == profile=* ]]; then
      options=(--profile "${setting#*=}")
    else
      IFS=/ read -r codec superchunk part <<<"$setting"
      options=(-C "$codec" --superchunk-size "$superchunk" ${part:+--part-size "$part"})
    fi
    measured "$work/time" "$floe" pack -q --memory 2G "${options[@]}" "${sources[@]}" "$image"
    read -r wall user system memory <"$work/time"
    printf '%s\t%s\t%s\t%s\t%s' "$setting" "$(mib "$(stat -c %s "$image")")" \
      "$(awk -v u="$user" -v s="$system" 'BEGIN { print u + s }')" "$wall" "$((memory / 1024))"
    for cache in $caches; do
      fresh "$cache"
      order=$(seconds walk_1)
      cost=$(awk -v i="$(counter inflated_bytes)" -v r="$(counter read_bytes)" 'BEGIN { printf "%.2f", i / r }')
      fresh "$cache"
      printf '\t%.2f\t%s\t%s' "$order" "$cost" "$(random_reads)"
    done
    [[ -z $caches ]] || "$floe" umount "$mnt"
    echo
  done
} | tee "$work/profiles.tsv" | awk -F'\t' '
  { for (i = 1; i <= NF; i++) printf i == 1 ? "%-18s" : "%13s", $i; print ""; fflush() }'
