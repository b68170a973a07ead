#!/usr/bin/env bash
# qcow2.sh DIR: a disk image of 4 GiB in the empty directory DIR: made, written at random places, flushed, snapshotted,
# discarded, checked, compared after conversion, shrunk and grown.
source "$(dirname "$0")/lib.sh"
(($# == 1)) || die "usage: qcow2.sh DIR"
dir=$(empty_directory "$1")
need qemu-img qemu-io
cd "$dir"
step "made"
qemu-img create -q -f qcow2 -o lazy_refcounts=off,discard_no_unref=off disk.qcow2 4G 2>/dev/null || qemu-img create -q -f qcow2 disk.qcow2 4G
io() { # io FILE: qemu-io commands from standard input; what fails is said
  qemu-io -f qcow2 -d unmap "$1" >io.said 2>&1 || { tail -n 5 io.said; die "qemu-io"; }
  ! grep -iE 'error|failed|verification' io.said || die "qemu-io"
}
RANDOM=19
writes() { # writes PATTERN COUNT OFFSET: 64 KiB each, at places that no other pattern has
  local i
  for ((i = 0; i < $2; i++)); do echo "write -P $1 $((((RANDOM * 2 + i) % 4096 * 1024 + $3) * 1024)) 64k"; done
}
step "written"
{ writes 17 400 0; echo flush; writes 34 400 64; echo flush; } | tee first.txt | io disk.qcow2
step "a snapshot, and written over"
qemu-img snapshot -c before disk.qcow2
{ writes 51 400 128; echo "discard 3G 512M"; echo "write -z 2G 64M"; echo flush; } | io disk.qcow2
step "checked"
qemu-img check -q disk.qcow2
step "the snapshot has what was written before"
qemu-img snapshot -a before disk.qcow2
sed 's/^write/read/; /^flush/d' first.txt | io disk.qcow2
qemu-img snapshot -d before disk.qcow2
step "converted and compared"
qemu-img convert -q -O qcow2 -c disk.qcow2 copy.qcow2
qemu-img convert -q -O raw -S 64k disk.qcow2 copy.raw
qemu-img compare -q disk.qcow2 copy.qcow2
qemu-img compare -q -f qcow2 -F raw disk.qcow2 copy.raw
step "grown"
qemu-img resize -q disk.qcow2 5G
qemu-img check -q disk.qcow2
qemu-img check -q copy.qcow2
step "done"
