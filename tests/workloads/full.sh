#!/usr/bin/env bash
# full.sh FLOE DIR
# A full disk: an image on a small ext4 (a loop file in the directory DIR). Files are written until nothing more fits, once
# because of them, once because of somebody else's file. Then unlink, truncate, sync and unmount have to work; what was
# synced is there after each mount; `floe check` is clean; and there is space again when all is removed. "plain" for FLOE: on the ext4 itself.
source "$(dirname "$0")/lib.sh"
(($# == 2)) || die "usage: full.sh FLOE DIR"
floe=$1 dir=$2
need mkfs.ext4 losetup sha256sum dd
((EUID == 0)) || die "needs root"
[[ -d $dir ]] || die "no directory $dir"
dir=$(cd "$dir" && pwd)/floe-full.$$
disk=$dir/disk mnt=$dir/mnt limited_group=$(mktemp)
mkdir -p "$disk" "$mnt"
finish() {
  kill_limited
  rm -f "$limited_group"
  if mountpoint -q "$mnt"; then
    abort_connection "$(connection "$mnt")" || true
    umount -l "$mnt" || true
  fi
  ! mountpoint -q "$disk" || umount -l "$disk" || true
  rm -rf "$dir"
}
trap finish EXIT
trap 'exit 130' INT TERM
truncate -s 400M "$dir/disk.img"
mkfs.ext4 -q -F -m 0 "$dir/disk.img"
mount -o loop "$dir/disk.img" "$disk"
image=$disk/image.floe
up() {
  if [[ $floe == plain ]]; then mkdir -p "$image"; mount --bind "$image" "$mnt"; else limited 60 - "$floe" mount "$image" "$mnt"; fi
}
down() { if [[ $floe == plain ]]; then umount "$mnt"; else limited 120 "$mnt" "$floe" umount "$mnt"; fi; }
durable() { if [[ $floe == plain ]]; then sync -f "$mnt"; else limited 120 "$mnt" "$floe" sync "$mnt"; fi; }
check() { [[ $floe == plain ]] || limited 120 - "$floe" check "$image" >"$dir/said" 2>&1 || { cat "$dir/said"; die "check: $1"; }; }
verify() { # verify WHEN: all that is in the list is there as it was
  [[ ! -s $dir/sums ]] || (cd "$mnt" && limited 120 "$mnt" sha256sum --quiet -c "$dir/sums") || die "$1: files are not as they were"
}
fill() { # fill NAME: files of 1 MB until one fails, which is removed; sets `written`
  written=0
  while head -c 1000000 /dev/urandom >"$dir/piece" && limited 120 "$mnt" dd if="$dir/piece" of="$mnt/$1-$written" bs=64k conv=fsync status=none 2>"$dir/said"; do
    (cd "$dir" && sha256sum piece | sed "s/piece/$1-$written/") >>"$dir/sums"
    written=$((written + 1))
    ((written < 1000)) || die "the disk never fills"
  done
  grep -q 'No space left' "$dir/said" || die "not ENOSPC, but: $(cat "$dir/said")"
  rm -f "$mnt/$1-$written"
}
# Somebody else's, who gives it back in two parts. Each mount that changes something takes a new segment of the log, so a disk
# without a single free block is begun to be written once or twice, and no more until there is some space.
head -c 20000000 /dev/zero >"$disk/first"
head -c 20000000 /dev/zero >"$disk/second"
[[ $floe == plain ]] || "$floe" mkfs "$image"
: >"$dir/sums"
step "its own files fill it"
up
fill own
((written > 150)) || die "only $written MB fit on 400 MB"
step "$written files of 1 MB; then no more"
verify "on the full disk"
durable || die "sync on a full disk"
down || die "unmount on a full disk"
check "of what was left on a full disk"
up || die "mount on a full disk"
verify "mounted again on the full disk"
step "half of them are removed, one is made shorter"
for ((i = 0; i < written; i += 2)); do rm "$mnt/own-$i" || die "unlink on a full disk"; sed -i "/ own-$i\$/d" "$dir/sums"; done
truncate -s 10 "$mnt/own-1" || die "truncate on a full disk"
sed -i '/ own-1$/d' "$dir/sums"
durable || die "sync after removing"
verify "after removing"
down || die "unmount after removing"
check "after removing"
up
verify "mounted again after removing"
step "somebody else gives some space back, and fills it again"
rm "$disk/first"
fill other
echo "        $written files of 1 MB fit again"
dd if=/dev/zero of="$disk/else" bs=64k status=none 2>/dev/null || true
! echo "not even this" >"$mnt/small" 2>/dev/null || echo "        a small file still fits"
mkdir "$mnt/directory" 2>/dev/null || true
rm -f "$mnt/small"
durable || die "sync where somebody else filled the disk"
for ((i = 3; ; i += 4)); do [[ -e $mnt/own-$i ]] || break; rm "$mnt/own-$i" || die "unlink where somebody else filled the disk"; sed -i "/ own-$i\$/d" "$dir/sums"; done
durable || die "sync after unlinking there"
down || die "unmount where somebody else filled the disk"
check "where somebody else filled the disk"
up || die "mount where somebody else filled the disk"
verify "where somebody else filled the disk"
step "all of it is removed: there is space again"
rm "$disk/else" "$disk/second"
rm -f "$mnt"/own-* "$mnt"/other-* || { getfattr --only-values -n user.floe.state "$mnt"; die "unlink of all"; }
: >"$dir/sums"
durable || die "sync after all is removed"
down || die "unmount after all is removed"
check "after all is removed"
up
fill again
((written > 100)) || die "only $written MB fit after all was removed"
verify "after all was removed"
down
check "at the end"
step "done"
