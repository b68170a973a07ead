#!/usr/bin/env bash
# everyday.sh DIR: what people do to files every day, in the empty directory DIR: editors, tar with xattrs and ACLs, cp of all
# kinds, dd, mmap, append by several, locks, inotify, df and du, users without rights, find -delete, rm -rf of many files.
# Each part is checked; all that fail are said at the end.
source "$(dirname "$0")/lib.sh"
(($# == 1)) || die "usage: everyday.sh DIR"
dir=$(empty_directory "$1")
need vim sed tar setfattr getfattr setfacl getfacl cp dd flock python3 setpriv perl truncate
((EUID == 0)) || die "needs root"
cd "$dir"
chmod 755 .
failures=()
part() { # part NAME: runs the function of that name in a directory of its own
  local said status=0
  mkdir "$1"
  # Not in a condition, where bash would go on after a failure.
  set +e
  said=$(exec 2>&1; set -e; trap 'echo "line $LINENO: $BASH_COMMAND"' ERR; set -E; cd "$1"; "$1")
  status=$?
  set -e
  if ((status)); then
    step "$1 FAILED: $(tail -n 4 <<<"$said")"
    failures+=("$1")
  else
    step "$1"
  fi
}
same() { [[ $1 == "$2" ]] || { echo "'$1' is not '$2'"; return 1; }; }
refused() { # refused COMMAND...: it fails (set -e takes no notice of '! command')
  if "$@" 2>/dev/null; then echo "not refused: $*"; return 1; fi
}
as_nobody() { setpriv --reuid 65534 --regid 65534 --clear-groups -- "$@"; }

editors() {
  printf 'one\ntwo\nthree\n' >text
  chmod 640 text
  setfattr -n user.note -v kept text
  sed -i 's/two/2/' text
  same "$(sed -n 2p text)" 2
  same "$(stat -c %a text)" 640
  vim -es -N -u NONE -c 'set backup writebackup' -c '%s/three/3/' -c 'wq' text
  same "$(sed -n 3p text)" 3
  [[ -e text~ ]]
  # A swap file is made while it is open, and removed.
  vim -es -N -u NONE -c 'set swapfile' -c 'edit text' -c '$put =\"four\"' -c 'wq'
  same "$(tail -n 1 text)" four
  [[ ! -e .text.swp ]]
  perl -i.orig -pe 's/one/1/' text
  same "$(head -n 1 text)" 1
  printf '%s\n' '--- text' '+++ text' '@@ -1 +1 @@' '-1' '+uno' | patch -s text
  same "$(head -n 1 text)" uno
}

tar_attributes() {
  mkdir from to
  echo bytes >from/file
  setfattr -n user.colour -v blue from/file
  setfattr -n trusted.secret -v yes from/file
  setfacl -m u:65534:rw,g:10:r from/file
  setfacl -d -m g:10:rx from
  ln -s nowhere from/link
  mkfifo from/fifo
  mknod from/null c 1 3
  ln from/file from/second
  chown -h 12:34 from/link
  touch -h -d '2001-02-03 04:05:06.789012345' from/link from/file
  chmod 4755 from/second
  tar -c --xattrs --xattrs-include='*' --acls -f all.tar -C from .
  tar -x -p --xattrs --xattrs-include='*' --acls -f all.tar -C to
  rsync -aHAXS --checksum -n -i from/ to/ >differences
  same "$(cat differences)" ""
  same "$(getfacl -cp to/file)" "$(getfacl -cp from/file)"
  same "$(getfacl -cp to)" "$(getfacl -cp from)"
  same "$(stat -c '%h %a %y' to/file)" "$(stat -c '%h %a %y' from/file)"
  # Made inside, it has the directory's default ACL.
  echo >from/inside
  getfacl -cpn from/inside >acl
  grep -q '^group:10:r-x' acl
}

copies() {
  head -c 3000000 /dev/urandom >whole
  truncate -s 50M sparse
  printf x | dd of=sparse bs=1 seek=20000000 conv=notrunc status=none
  cp --reflink=auto whole a
  cmp whole a
  cp --sparse=always sparse b
  cmp sparse b
  (($(du -k b | cut -f 1) < 1000)) || { du -k b; return 1; }
  cp --sparse=never whole c
  cmp whole c
  cp -a --attributes-only whole d
  same "$(stat -c %s d)" 0
  cp -al whole hard
  same "$(stat -c %h whole)" 2
  install -m 711 -o 5 -g 6 whole e
  same "$(stat -c '%a %u %g' e)" "711 5 6"
  cp -u whole a
  mv a f
  cmp whole f
  # What was copied is not changed with the original.
  printf y | dd of=whole bs=1 seek=100 conv=notrunc status=none
  cmp -l whole f >bytes || true
  same "$(wc -l <bytes)" 1
  cmp hard whole
}

pieces() {
  head -c 1000000 /dev/zero | tr '\0' a >file
  printf 'bb' | dd of=file bs=1 seek=4095 conv=notrunc status=none
  same "$(dd if=file bs=1 skip=4094 count=4 status=none)" abba
  same "$(stat -c %s file)" 1000000
  dd if=/dev/zero of=file bs=64k count=2 seek=3 conv=notrunc,fsync oflag=direct status=none
  same "$(head -c 400000 file | tail -c 10000 | tr -d a | wc -c)" "$(head -c 400000 file | tail -c 10000 | tr -d a | wc -c)"
  same "$(stat -c %s file)" 1000000
  truncate -s 10 file
  truncate -s 20 file
  same "$(od -An -c file | tr -d ' \n')" 'aaaaaaaaaa\0\0\0\0\0\0\0\0\0\0'
  fallocate -l 5000 file
  same "$(stat -c %s file)" 5000
  fallocate -n -l 1000000 file
  same "$(stat -c %s file)" 5000
  fallocate -p -o 2 -l 4 file
  same "$(head -c 8 file | od -An -c | tr -d ' \n')" 'aa\0\0\0\0aa'
  fallocate -z -o 0 -l 3 file
  same "$(head -c 8 file | od -An -c | tr -d ' \n')" '\0\0\0\0\0\0aa'
}

memory_maps() {
  head -c 100000 /dev/zero >file
  python3 - <<'PYTHON'
import mmap, os
with open("file", "r+b") as f:
    shared = mmap.mmap(f.fileno(), 0)
    shared[5000:5005] = b"hello"
    shared[99999:100000] = b"!"
    assert os.pread(f.fileno(), 5, 5000) == b"hello"
    os.pwrite(f.fileno(), b"HELLO", 4998)
    assert shared[4998:5005] == b"HELLOlo", shared[4998:5005]
    shared.flush()
    shared[0:1] = b"x"
    shared.close()
    private = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_COPY)
    private[0:1] = b"p"
# Written after the last close of the descriptor, and before the map is gone.
fd = os.open("late", os.O_RDWR | os.O_CREAT)
os.ftruncate(fd, 8192)
late = mmap.mmap(fd, 8192)
os.close(fd)
late[4096:4100] = b"late"
late.close()
assert open("late", "rb").read()[4096:4100] == b"late"
# Unlinked, and still there for whoever has it.
fd = os.open("gone", os.O_RDWR | os.O_CREAT)
os.write(fd, b"0123456789" * 1000)
held = mmap.mmap(fd, 10000)
os.unlink("gone")
held[0:1] = b"X"
assert os.pread(fd, 3, 0) == b"X12" and os.fstat(fd).st_nlink == 0
PYTHON
  same "$(dd if=file bs=1 skip=4998 count=7 status=none)" HELLOlo
  same "$(head -c 1 file)" x
}

appends() {
  local n
  for n in 1 2 3 4; do (for ((i = 0; i < 500; i++)); do echo "writer $n line $i"; done >>log) & done
  wait
  same "$(wc -l <log)" 2000
  same "$(grep -cE '^writer [1-4] line [0-9]+$' log)" 2000
  same "$(sort -u log | wc -l)" 2000
}

locks() {
  echo 0 >count
  local n
  for n in 1 2 3 4; do
    (for ((i = 0; i < 50; i++)); do flock lock bash -c 'echo $(($(<count) + 1)) >count'; done) &
  done
  wait
  same "$(<count)" 200
  python3 - <<'PYTHON'
import fcntl, os
f = open("lock", "w")
fcntl.lockf(f, fcntl.LOCK_EX, 10, 5)
if os.fork() == 0:
    try:
        fcntl.lockf(open("lock", "w"), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 7)
        os._exit(1)
    except BlockingIOError:
        os._exit(0)
assert os.wait()[1] == 0, "a range was locked twice"
PYTHON
}

notices() {
  python3 - <<'PYTHON'
import ctypes, os, struct
libc = ctypes.CDLL(None, use_errno=True)
fd = libc.inotify_init1(os.O_NONBLOCK)
assert libc.inotify_add_watch(fd, b".", 0xFFF) > 0
open("new", "w").write("x")
os.rename("new", "newer")
os.unlink("newer")
data, seen, at = os.read(fd, 65536), 0, 0
while at < len(data):
    _, mask, _, length = struct.unpack_from("iIII", data, at)
    seen |= mask
    at += 16 + length
for name, bit in dict(create=0x100, modify=2, closed=8, moved_from=0x40, moved_to=0x80, deleted=0x200).items():
    assert seen & bit, name
PYTHON
}

sizes() {
  local total free used
  read -r total used free < <(df -k --output=size,used,avail . | tail -n 1)
  ((total > 0 && free > 0 && free <= total))
  read -r total free < <(df --output=itotal,iavail . | tail -n 1)
  ((total > 0 && free > 0))
  head -c 1000000 /dev/urandom >file
  sync file
  used=$(du -k file | cut -f 1)
  ((used >= 970 && used <= 1100)) || { echo "du says $used KiB of 1,000,000 bytes"; return 1; }
  same "$(du -b --apparent-size file | cut -f 1)" 1000000
  mkdir -p a/b/c
  touch a/1 a/b/2
  same "$(stat -c %h a)" 3
  same "$(find a | wc -l)" 5
}

rights() {
  install -d -o 65534 -g 65534 own
  mkdir -m 1777 shared
  echo root >shared/roots
  as_nobody sh -c 'echo mine >own/file; chmod 600 own/file; echo too >shared/mine'
  refused as_nobody sh -c 'echo no >refused'
  refused as_nobody rm -f shared/roots
  refused as_nobody chown 0 own/file
  same "$(stat -c '%u %g %a' own/file)" "65534 65534 600"
  # A setuid bit is lost when somebody else writes, and when the owner changes.
  cp /bin/true own/suid
  chown 65534 own/suid
  chmod 6777 own/suid
  as_nobody sh -c 'echo x >>own/suid'
  same "$(stat -c %a own/suid)" 777
  chmod 6755 own/suid
  chown 1 own/suid
  same "$(stat -c %a own/suid)" 755
  # A group is handed on by a setgid directory.
  mkdir own/group
  chgrp 10 own/group
  chmod 2777 own/group
  as_nobody sh -c 'echo >own/group/file; mkdir own/group/sub'
  same "$(stat -c '%g' own/group/file)" 10
  same "$(stat -c '%g %a' own/group/sub)" "10 2755"
  setfacl -m u:65534:rwx own
  chmod 700 shared
  refused as_nobody ls shared
  setfacl -m u:65534:rx shared
  as_nobody ls shared >/dev/null
}

times() {
  echo a >file
  touch -d '1965-01-01 00:00:00.5' file
  same "$(stat -c %y file)" "$(date -d '1965-01-01 00:00:00.5' '+%F %T.%N %z')"
  touch -d '2400-01-01' file
  same "$(stat -c %Y file)" "$(date -d 2400-01-01 +%s)"
  touch -r /bin/true file
  same "$(stat -c %y file)" "$(stat -c %y /bin/true)"
  local before
  before=$(stat -c %Z file)
  chmod 600 file
  (($(stat -c %Z file) >= before))
}

names() {
  local long
  long=$(printf 'n%.0s' {1..255})
  echo x >"$long"
  refused bash -c 'echo x >"$0"' "${long}n"
  echo x >$'line\nfeed'
  echo x >$'\xff\xfe'
  echo x >'back\slash and "quotes"'
  same "$(find . -type f | tr -cd . | wc -c)" 4
  mkdir one two
  touch one/a two/b
  refused mv -T one two
  python3 - <<'PYTHON'
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def rename(a, b, flags):
    return 0 if libc.renameat2(-100, a, -100, b, flags) == 0 else ctypes.get_errno()
assert rename(b"one", b"two", 2) == 0 and os.path.exists("one/b") and os.path.exists("two/a"), "exchange"
open("x", "w").write("x"); open("y", "w").write("y")
assert rename(b"x", b"y", 1) == 17, "no replace"
assert rename(b"one", b"one/inside", 0) == 22, "into itself"
assert rename(b"x", b"y", 0) == 0 and open("y").read() == "x"
PYTHON
}

unnamed() {
  # O_TMPFILE is not offered; programs go on without.
  python3 - <<'PYTHON'
import os, tempfile
with tempfile.TemporaryFile(dir=".") as f:
    f.write(b"hidden"); f.flush(); f.seek(0)
    assert f.read() == b"hidden"
assert os.listdir(".") == []
PYTHON
}

programs() {
  cp /bin/true here
  ./here
  printf '#!/bin/sh\nexit 7\n' >script
  chmod +x script
  same "$(./script || echo $?)" 7
  # A program that runs cannot be written to.
  cp /bin/sleep running
  ./running 100 &
  local pid=$!
  until [[ $(readlink "/proc/$pid/exe") == */running ]]; do :; done
  refused bash -c 'echo x >>running'
  kill "$pid"
  wait "$pid" 2>/dev/null || true
  echo x >>running
}

many() {
  mkdir -p tree
  python3 - <<'PYTHON'
import os
for d in range(40):
    os.makedirs(f"tree/{d}/sub")
    for f in range(250):
        open(f"tree/{d}/{f}", "w").write("x" * (f % 50))
        os.symlink("x", f"tree/{d}/sub/{f}")
PYTHON
  same "$(find tree | wc -l)" 20081
  find tree -name '*7' ! -type d -delete
  same "$(find tree -name '*7' ! -type d | wc -l)" 0
  # Removed while they are listed: none is left out, none comes back.
  rm -rf tree
  [[ ! -e tree ]]
  mkdir flat
  (cd flat && seq 20000 | xargs touch)
  same "$(ls flat | wc -l)" 20000
  (cd flat && seq 1 2 20000 | xargs rm)
  same "$(ls flat | wc -l)" 10000
  rm -rf flat
}

for part in editors tar_attributes copies pieces memory_maps appends locks notices sizes rights times names unnamed programs many; do
  part "$part"
done
((${#failures[@]} == 0)) || die "failed: ${failures[*]}"
