# Shared by the workloads; sourced, not run.
# shellcheck shell=bash
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
project=$(cd "$here/../.." && pwd)
# Whose answers do not depend on who runs it.
export LC_ALL=C GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null GIT_TERMINAL_PROMPT=0

die() { echo "${0##*/}: $*" >&2; exit 1; }

need() { # need PROGRAM...: fails with all that are missing
  local missing=() program
  for program; do command -v "$program" >/dev/null || missing+=("$program"); done
  ((${#missing[@]} == 0)) || die "not installed: ${missing[*]}"
}

step() { # step WORDS...: what happens now, with the seconds since the start
  printf '%6d s  %s\n' "$SECONDS" "$*"
}

# The tree that git and rsync work on: kernel sources, some 80,000 files. SOURCES names another.
sources=${SOURCES:-/work/corpus/sources}

empty_directory() { # empty_directory DIR: DIR as an absolute path; it must be an empty directory
  [[ -d $1 ]] || die "$1 is no directory"
  [[ -z $(ls -A "$1") ]] || die "$1 is not empty"
  (cd "$1" && pwd)
}

# limited SECONDS MOUNT COMMAND...: runs a command in its own process group. Past the limit the FUSE connection of MOUNT
# ("-": none) is aborted and the group is killed: a request that is never answered would hold its caller for ever.
limited() {
  local limit=$1 mount=$2 device child watch status=0
  shift 2
  device=$([[ $mount == - ]] || awk -v dir="$mount" '$5 == dir { split($3, d, ":"); last = d[2] } END { print last }' /proc/self/mountinfo)
  setsid "$@" &
  child=$!
  (
    # The sleep is a child of its own, so that it ends with this shell.
    sleep "$limit" & trap 'kill $!; exit' TERM
    wait $!
    echo "past the limit of $limit s: $*" >&2
    [[ -z $device ]] || echo 1 >"/sys/fs/fuse/connections/$device/abort" || true
    kill -KILL -- "-$child" 2>/dev/null || true
  ) &
  watch=$!
  wait "$child" || status=$?
  kill "$watch" 2>/dev/null || true
  wait "$watch" 2>/dev/null || true
  return "$status"
}
