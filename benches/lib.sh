# Functions of the measuring scripts, which source this file.
# shellcheck shell=bash
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
floe=${FLOE:-$here/../target/release/floe}

die() { echo "${0##*/}: $*" >&2; exit 1; }

need() { # need PROGRAM...: fails with all that are missing
  local missing=() program
  for program; do command -v "$program" >/dev/null || missing+=("$program"); done
  ((${#missing[@]} == 0)) || die "not installed: ${missing[*]}"
}

need_floe() { [[ -x $floe ]] || die "no $floe: build it with 'cargo build --release', or set FLOE"; }
need_root() { ((EUID == 0)) || die "mounting and dropping caches needs root"; }

machine() { # prints one line about the machine, for every figure
  printf '%s cores of %s, %s MiB, Linux %s, %s\n' "$(nproc)" \
    "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1)" \
    "$(($(sed -n 's/^MemTotal: *\([0-9]*\).*/\1/p' /proc/meminfo) / 1024))" "$(uname -r)" "$("$floe" --version)"
}

drop_caches() { sync; echo 3 >/proc/sys/vm/drop_caches; }

seconds() { # seconds COMMAND...: prints the wall time of a command
  local begin=${EPOCHREALTIME/[.,]/} end
  "$@" >&2 || die "failed: $*"
  end=${EPOCHREALTIME/[.,]/}
  awk -v us=$((end - begin)) 'BEGIN { printf "%.3f\n", us / 1e6 }'
}

# medians FILE: reads lines "name<TAB>measure<TAB>value"; prints the median of each name and measure, in order of appearance
medians() {
  awk -F'\t' '
    { key = $1 FS $2; if (!(key in n)) order[++keys] = key; value[key, ++n[key]] = $3 + 0 }
    END {
      for (k = 1; k <= keys; k++) {
        key = order[k]; count = n[key]
        for (i = 1; i <= count; i++) sorted[i] = value[key, i]
        for (i = 2; i <= count; i++) for (j = i; j > 1 && sorted[j] < sorted[j - 1]; j--) {
          t = sorted[j]; sorted[j] = sorted[j - 1]; sorted[j - 1] = t
        }
        m = count % 2 ? sorted[(count + 1) / 2] : (sorted[count / 2] + sorted[count / 2 + 1]) / 2
        printf "%s\t%.3f\n", key, m
      }
    }' "$1"
}

# table FILE BASE: prints the medians as a table, one line for each name; in brackets each value is divided by that of BASE
table() {
  medians "$1" | awk -F'\t' -v base="$2" '
    { if (!($1 in seen)) { seen[$1]; names[++rows] = $1 }
      if (!($2 in column)) { column[$2]; measures[++columns] = $2 }
      value[$1, $2] = $3 }
    END {
      printf "%-16s", ""; for (c = 1; c <= columns; c++) printf "%24s", measures[c]; print ""
      for (r = 1; r <= rows; r++) {
        printf "%-16s", names[r]
        for (c = 1; c <= columns; c++) {
          v = value[names[r], measures[c]]; b = value[base, measures[c]]
          cell = v == "" ? "-" : (b > 0 ? sprintf("%.3f (%.2f)", v, v / b) : sprintf("%.3f", v))
          printf "%24s", cell
        }
        print ""
      }
    }'
}

# measured OUT COMMAND...: runs a command; writes "wall user system peak" to OUT: three times in seconds, peak memory in KiB
measured() {
  local out=$1
  shift
  /usr/bin/time -o "$out" -f '%e %U %S %M' "$@" >&2 || die "failed: $*"
}

mib() { awk -v b="$1" 'BEGIN { printf "%.1f", b / 1048576 }'; }

# Passes over the mount at $mnt, each with N processes that read. walk_N reads the files that `find` lists in the mount. list_N
# reads the files that $list names, so that every path is looked up.
walk_1() { (cd "$mnt" && find . -type f -print0 | xargs -0 -s 2000000 cat >/dev/null); }
walk_4() { (cd "$mnt" && find . -type f -print0 | xargs -0 -P 4 -n 200 cat >/dev/null); }
list_1() { (cd "$mnt" && xargs -0 -a "$list" -s 2000000 cat >/dev/null); }
list_4() { (cd "$mnt" && xargs -0 -a "$list" -P 4 -n 200 cat >/dev/null); }
find_ls() { find "$mnt" -ls >/dev/null; }
