#!/usr/bin/env bash
# equal.sh SOURCE OTHER
# Compares two trees with rsync, find, getfattr and SEEK_HOLE. Prints the differences, and fails if there are any. rsync
# accepts no path longer than PATH_MAX: RSYNC_EXCLUDE=PATTERN excludes such paths from its comparison.
source "$(dirname "$0")/lib.sh"
(($# == 2)) || die "usage: equal.sh SOURCE OTHER"
need rsync find getfattr python3
left=$(cd "$1" && pwd) right=$(cd "$2" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
found=0
differ() { # differ TITLE: shows standard input if it has lines
  sed -n '1,40p' >"$work/difference"
  if [[ -s $work/difference ]]; then
    echo "== $1"
    cat "$work/difference"
    found=1
  fi
}
exclude=()
[[ -z ${RSYNC_EXCLUDE:-} ]] || exclude=(--exclude "$RSYNC_EXCLUDE")
rsync -aHAXS --checksum --modify-window=-1 --dry-run --itemize-changes --delete "${exclude[@]}" "$left/" "$right/" \
  >"$work/rsync"
differ rsync <"$work/rsync"

listing() { (cd "$1" && find . -printf '%P %y %m %U %G %n %s %T@ %l\n' | LC_ALL=C sort); }
# Each file system chooses the sizes of its directories, so they are not compared.
sizes() { awk '{ if ($2 == "d") $7 = "-"; print }'; }
differ "find -printf" < <(diff <(listing "$left" | sizes) <(listing "$right" | sizes) || true)

attributes() { (cd "$1" && find . -print0 | LC_ALL=C sort -z | xargs -0 getfattr -dhm- -e hex -- 2>/dev/null | grep -v '^user.floe'); }
differ "getfattr -dhm-" < <(diff <(attributes "$left") <(attributes "$right") || true)

holes() {
  python3 - "$1" <<'PYTHON'
import os, sys
for base, dirs, files, fd in os.fwalk(os.fsencode(sys.argv[1]), follow_symlinks=False):
    dirs.sort()
    for name in sorted(files):
        info = os.lstat(name, dir_fd=fd)
        if not os.path.stat.S_ISREG(info.st_mode) or info.st_size == 0:
            continue
        handle = os.open(name, os.O_RDONLY, dir_fd=fd)
        ranges, at = [], 0
        while at < info.st_size:
            try:
                start = os.lseek(handle, at, os.SEEK_DATA)
            except OSError:
                break
            at = os.lseek(handle, start, os.SEEK_HOLE)
            ranges.append((start, at))
        os.close(handle)
        if ranges != [(0, info.st_size)]:
            print(ascii(os.path.relpath(os.path.join(base, name), os.fsencode(sys.argv[1]))), ranges)
PYTHON
}
differ "SEEK_HOLE maps" < <(diff <(holes "$left") <(holes "$right") || true)
((found == 0)) && echo "$left and $right are the same"
exit "$found"
