#!/usr/bin/env bash
# Makes the Debian package target/debian/floe_*.deb: deb.sh [FLOE]
# Builds the program (profile `dist`), or takes FLOE; lets it make its manual pages and completions; calls `cargo deb`.
# Needs cargo-deb: cargo install cargo-deb --locked
set -euo pipefail
cd "$(dirname "$0")/.."
cargo deb --version >/dev/null 2>&1 || { echo "deb.sh: no cargo-deb: cargo install cargo-deb --locked" >&2; exit 1; }
floe=${1:-}
if [[ -z $floe ]]; then
  cargo build --profile dist --locked
  floe=target/dist/floe
fi

# Cargo.toml's [package.metadata.deb] takes its files from here.
staged=target/packaging
rm -rf "$staged"
DESTDIR=$staged packaging/install.sh "$floe" /usr
# Of a build that has them: what only profilers read.
strip "$staged/usr/bin/floe"
cargo deb --no-build --no-strip --profile dist
