#!/usr/bin/env bash
# fsx.sh DIR [SEEDS [OPERATIONS [SIDE-BY-SIDE]]]
# fsx (crate fsx 0.3.2, `cargo install fsx --version 0.3.2`; FSX names the program) in the empty directory DIR: by default
# seeds 1 to 10 with 50,000 operations each, two at a time; fsx.toml says which operations. Fails where one fails, and says
# the seed.
source "$(dirname "$0")/lib.sh"
(($# >= 1)) || die "usage: fsx.sh DIR [SEEDS [OPERATIONS [SIDE-BY-SIDE]]]"
dir=$(empty_directory "$1") seeds=${2:-10} operations=${3:-50000} side=${4:-2}
fsx=${FSX:-$(command -v fsx || echo /work/tools/bin/fsx)}
need "$fsx" xargs
export fsx dir operations here
one() { # one SEED
  local begin=$SECONDS
  if "$fsx" -f "$here/fsx.toml" -S "$1" -N "$operations" -P "${TMPDIR:-/tmp}" -q "$dir/seed-$1" >"$dir/seed-$1.said" 2>&1; then
    echo "seed $1: $operations operations in $((SECONDS - begin)) s"
  else
    echo "seed $1 failed after $((SECONDS - begin)) s:"
    tail -n 40 "$dir/seed-$1.said"
    return 1
  fi
}
export -f one
seq "$seeds" | xargs -P "$side" -I{} bash -c 'one {}' || die "some seeds failed"
