# Shared by the workloads; sourced, not run.
# shellcheck shell=bash
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
project=$(cd "$here/../.." && pwd)
source "$here/limited.sh"
# Whose answers do not depend on who runs it.
export LC_ALL=C TZ=UTC GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null GIT_TERMINAL_PROMPT=0

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
