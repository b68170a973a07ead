#!/usr/bin/env bash
# run.sh FLOE DIR [WORKLOAD...]
# Each workload (by default all: everyday qcow2 sqlite postgres cargo rsync git fsx fsx-freeze pjdfstest) in a new writable mount of FLOE: the image,
# its thaw log, the mount and a copy are in the directory DIR, on a real disk; each workload's own are removed after it.
# After each the mount's tree is copied to DIR, the image unmounted, mounted again and compared with the copy by
# `rsync -aHAXS --checksum -n -i`, which must print nothing; `floe check` must be clean. FLOE may be "plain": then the workloads
# run in DIR itself, with no mount, which is what each has to pass first.
# Removes its mounts and files also when interrupted; KEEP=1 leaves image and log of what failed. A workload has LIMIT seconds
# (3,600): past it the FUSE connection is aborted. OPTIONS are the options of `floe mount` ("-o allow_other,dev,suid": other users
# are let in, and devices and setuid programs work as on other filesystems).
source "$(dirname "$0")/lib.sh"
(($# >= 2)) || die "usage: run.sh FLOE DIR [WORKLOAD...]"
floe=$1 dir=$2
shift 2
workloads=("$@")
((${#workloads[@]})) || workloads=(everyday qcow2 sqlite postgres cargo rsync git fsx fsx-freeze pjdfstest)
need rsync setsid awk df
((EUID == 0)) || die "needs root, for owners, xattrs and other users"
[[ $floe == plain || -x $floe ]] || die "no program $floe"
[[ -d $dir ]] || die "no directory $dir"
dir=$(cd "$dir" && pwd)/floe-workloads.$$
limit=${LIMIT:-3600}
read -r -a options <<<"${OPTIONS--o allow_other,dev,suid}"
# Space that each workload takes at most, in MiB: its bytes in the log, and as much again for the copy.
declare -A space=([git]=10000 [rsync]=4000 [cargo]=5000 [qcow2]=1500 [sqlite]=500 [postgres]=3000 [fsx]=3000 [fsx-freeze]=8000 [pjdfstest]=100 [everyday]=400)
mnt=$dir/mnt
limited_group=$(mktemp)

mounted() { mountpoint -q "$mnt"; }
mount_it() { # mount_it WORKLOAD: fsx-freeze is fsx where everything freezes at once
  local more=()
  [[ $1 != *-freeze ]] || more=(-o freeze=eager)
  limited 120 - "$floe" mount "${options[@]}" "${more[@]}" "$dir/disk.floe" "$mnt" && mounted
}
unmount_it() { limited 600 "$mnt" "$floe" umount "$mnt" && ! mounted; }
abort() { # whatever is mounted goes, dead or alive
  mounted || return 0
  abort_connection "$(connection "$mnt")" || true
  umount -l "$mnt"
}
finish() {
  kill_limited
  rm -f "$limited_group"
  [[ $floe == plain ]] || abort
  if [[ -n ${failed:-} && -n ${KEEP:-} ]]; then echo "kept: $dir"; else rm -rf "$dir"; fi
}
trap finish EXIT
trap 'exit 130' INT TERM

run_in() { # run_in WORKLOAD DIRECTORY MOUNT
  local begin=$SECONDS
  mkdir "$2"
  limited "$limit" "$3" "$here/${1%-freeze}.sh" "$2" || return 1
  echo "$1: passed in $((SECONDS - begin)) s"
}

on_floe() { # on_floe WORKLOAD
  local name=$1 begin
  "$floe" mkfs "$dir/disk.floe" || return 1
  mount_it "$name" || { echo "$name: cannot mount"; return 1; }
  run_in "$name" "$mnt/$name" "$mnt" || { echo "$name: failed"; return 1; }
  [[ $name == fsx* || $name == pjdfstest ]] && rm -rf "${mnt:?}/$name"/*
  limited 1800 "$mnt" rsync -aHAXS "$mnt/" "$dir/copy/" || { echo "$name: cannot be copied"; return 1; }
  begin=$SECONDS
  unmount_it || { echo "$name: cannot unmount"; return 1; }
  echo "$name: unmounted in $((SECONDS - begin)) s, image and log $(du -smc "$dir"/disk.floe* | awk 'END { print $1 }') MiB"
  limited 1800 - "$floe" check "$dir/disk.floe" >"$dir/said" 2>&1 || { cat "$dir/said"; echo "$name: check"; return 1; }
  mount_it "$name" || { echo "$name: cannot mount again"; return 1; }
  limited 1800 "$mnt" rsync -aHAXS --checksum --delete -n -i "$dir/copy/" "$mnt/" >"$dir/said" 2>&1 || { head "$dir/said"; echo "$name: cannot be compared"; return 1; }
  [[ ! -s $dir/said ]] || { head -n 20 "$dir/said"; echo "$name: $(wc -l <"$dir/said") differences after it was mounted again"; return 1; }
  unmount_it || { echo "$name: cannot unmount after the comparison"; return 1; }
  echo "$name: the same after it was mounted again"
}

failures=()
for name in "${workloads[@]}"; do
  [[ -x $here/${name%-freeze}.sh ]] || die "no workload $name"
  mkdir -p "$mnt"
  free=$(df -m --output=avail "$dir" | tail -n 1)
  ((free > ${space[$name]:-1000} + 2000)) || die "$name needs ${space[$name]:-1000} MiB and 2,000 besides, and $free are free"
  if [[ $floe == plain ]]; then
    run_in "$name" "$dir/$name" - || failures+=("$name")
  else
    on_floe "$name" || failures+=("$name")
  fi
  if ((${#failures[@]})) && [[ -n ${KEEP:-} ]]; then break; fi
  [[ $floe == plain ]] || abort
  rm -rf "$dir"
done
((${#failures[@]} == 0)) || { failed=1; die "failed: ${failures[*]}"; }
echo "all passed: ${workloads[*]}"
