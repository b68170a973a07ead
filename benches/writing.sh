#!/usr/bin/env bash
# writing.sh SOURCE WORK [RUNS [MIB]]
# Measures how fast a writable mount takes data, in turns with other filesystems. Prints medians of RUNS (3):
#   tar      tar x of SOURCE, followed by a sync of that filesystem
#   dd       one file of MIB (4,096; 0: none) MiB of random bytes, dd bs=1M conv=fsync
# The filesystems are floe, btrfs (compress-force=zstd:3, a loop file in WORK) and nullfs (benches/nullfs, a FUSE filesystem
# that keeps names and attributes in memory and discards data: it shows the least that FUSE costs). The tar archive and random
# bytes are made before, in a tmpfs, so that reading them takes the same time for all. Each run begins with a new filesystem and
# a sync. Only one filesystem's files are in WORK at a time; mounts and files are removed, also after an interrupt.
# SYSTEMS ("floe btrfs nullfs") selects filesystems; OPTIONS are more options of `floe mount`; PERF=FILE records each tar x of
# floe with perf.
source "$(dirname "$0")/lib.sh"
source "$here/../tests/workloads/limited.sh"
(($# >= 2)) || die "usage: writing.sh SOURCE WORK [RUNS [MIB]]"
source=$1 work=$2 runs=${3:-3} mib=${4:-4096}
read -r -a systems <<<"${SYSTEMS:-floe btrfs nullfs}"
read -r -a options <<<"${OPTIONS:-}"
has() { [[ " ${systems[*]} " == *" $1 "* ]]; }
# A step hangs if it takes longer than this, in seconds.
limit=1800
# This much memory and space on the disk is left to other programs.
spare_mib=2048

need awk tar dd openssl setsid mountpoint
! has btrfs || need mkfs.btrfs
! has floe || need_floe
need_root
[[ -d $source ]] || die "no directory $source"
mkdir -p "$work"
work=$(cd "$work" && pwd)/writing.$$
nullfs=${NULLFS:-$here/nullfs/target/release/nullfs}
if has nullfs && [[ ! -x $nullfs ]]; then
  cargo build --release --locked -q --manifest-path "$here/nullfs/Cargo.toml" || die "nullfs cannot be built"
fi

memory= daemon=
mnt=$work/mnt limited_group=$work/group
finish() {
  kill_limited
  if [[ -n $mnt ]] && mountpoint -q "$mnt"; then
    [[ $(stat -f -c %T "$mnt") == btrfs ]] || abort_connection "$(connection "$mnt")" || true
    umount -l "$mnt" || true
  fi
  [[ -z $memory ]] || rm -rf "$memory"
  rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM HUP

# The data that is written is prepared in memory.
source_mib=$(du -sm --apparent-size "$source" | cut -f 1)
available() { awk '$1 == "MemAvailable:" { print int($2 / 1024) }' /proc/meminfo; }
tmpfs_free=$(df -m --output=avail /dev/shm | tail -n 1)
wanted=$((source_mib * 5 / 4 + mib + spare_mib))
(($(available) > wanted && tmpfs_free > wanted)) || die "SOURCE and $mib MiB want $wanted MiB of memory, and $(available) are available"
# floe's thaw log holds the data uncompressed. The log and the loop file of btrfs do not exist at the same time.
wanted=$(((source_mib * 5 / 4 > mib ? source_mib * 5 / 4 : mib) + 1024 + spare_mib))
mkdir -p "$mnt"
free=$(df -m --output=avail "$work" | tail -n 1)
((free > wanted)) || die "the disk of $work wants $wanted MiB free, and has $free"
memory=$(mktemp -d -p /dev/shm)
tar -c -C "$source" -f "$memory/source.tar" .
((mib == 0)) || openssl enc -aes-128-ctr -pass pass:floe -nosalt -pbkdf2 -in /dev/zero 2>/dev/null | head -c "$((mib << 20))" >"$memory/random" || true
((mib == 0)) || (($(stat -c %s "$memory/random") == mib << 20)) || die "cannot make random bytes"

if has floe; then machine; else floe=true machine; fi
echo "tar archive of $((source_mib)) MiB and $mib MiB of random bytes in a tmpfs; image and loop file on $(df --output=source,fstype "$work" | tail -n 1)"

in_time() { limited "$limit" "$mnt" "$@" || die "failed: $*"; }
wait_mounted() { # returns when it is mounted; fails if its daemon has ended
  local begin=$SECONDS
  until mountpoint -q "$mnt"; do
    kill -0 "$daemon" 2>/dev/null || die "the daemon ended"
    ((SECONDS - begin < 60)) || die "not mounted after 60 s"
  done
}

up() { # up SYSTEM: makes a new filesystem and mounts it at $mnt
  daemon=
  case $1 in
  floe)
    "$floe" mkfs "$work/disk.floe" >&2
    "$floe" mount -f "${options[@]}" "$work/disk.floe" "$mnt" 2>"$work/said" &
    daemon=$!
    wait_mounted
    ;;
  btrfs)
    truncate -s "$((wanted << 20))" "$work/disk.btrfs"
    mkfs.btrfs -q -f "$work/disk.btrfs" >/dev/null
    mount -t btrfs -o loop,noatime,compress-force=zstd:3 "$work/disk.btrfs" "$mnt"
    ;;
  nullfs)
    "$nullfs" "$mnt" &
    daemon=$!
    wait_mounted
    ;;
  esac
  sync
}

results=$work/results.tsv
note() { # note SYSTEM MEASURE VALUE
  printf '%s\t%s\t%s\n' "$@" | tee -a "$results" | sed 's/^/run: /' >&2
}

down() { # down SYSTEM MEASURE: measures memory, unmounting and disk space, and removes the filesystem
  local system=$1 time
  [[ -z $daemon ]] || note "$system" "$2 peak MiB" "$(awk '$1 == "VmHWM:" { print $2 / 1024 }' "/proc/$daemon/status")"
  if [[ $system == floe ]]; then
    time=$(seconds in_time "$floe" umount "$mnt")
    note floe "$2 unmount s" "$time"
  else
    umount "$mnt"
  fi
  [[ -z $daemon ]] || wait "$daemon" || die "the daemon of $system failed: $(cat "$work/said")"
  [[ $system == nullfs ]] || note "$system" "$2 disk MiB" "$(du -smc "$work"/disk.* | awk 'END { print $1 }')"
  rm -rf "$work"/disk.*
}

durable() { # durable SYSTEM: returns when everything written is on the disk
  if [[ $1 == floe ]]; then in_time "$floe" sync "$mnt"; else in_time sync -f "$mnt"; fi
}
unpack() { # unpack SYSTEM
  in_time tar -x -f "$memory/source.tar" -C "$mnt"
  durable "$1"
}
one_file() { # one_file SYSTEM
  in_time dd if="$memory/random" of="$mnt/random" bs=1M conv=fsync status=none
}

order=("${systems[@]}")
for ((run = 1; run <= runs; run++)); do
  for system in "${order[@]}"; do
    up "$system"
    perf=
    if [[ -n ${PERF:-} && $system == floe ]]; then
      perf record -q -g -F 499 -p "$daemon" -o "$PERF" 2>/dev/null &
      perf=$!
    fi
    time=$(seconds unpack "$system")
    note "$system" "tar x s" "$time"
    [[ -z $perf ]] || { kill -INT "$perf"; wait "$perf" || true; }
    down "$system" tar
    if ((mib)) && [[ $system != nullfs ]]; then
      up "$system"
      time=$(seconds one_file "$system")
      note "$system" "dd s" "$time"
      down "$system" dd
    fi
  done
  # Another filesystem is the first in the next run.
  order=("${order[@]:1}" "${order[0]}")
done

table "$results" none
medians "$results" | awk -F'\t' '
  { value[$1, $2] = $3 }
  function speed(measure, other, least) {
    if (value["floe", measure] > 0 && value[other, measure] > 0)
      printf "%s: floe has %.2f of the speed of %s%s\n", measure, value[other, measure] / value["floe", measure], other, least
  }
  END {
    speed("tar x s", "btrfs", " (0.3 or more is asked for)")
    speed("tar x s", "nullfs", "")
    speed("dd s", "btrfs", " (0.6 or more is asked for)")
  }'
