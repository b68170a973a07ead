#!/usr/bin/env bash
# cargo.sh DIR: a debug build of floe, its sources and its target in the empty directory DIR, offline; what was built runs,
# and a second build builds nothing.
source "$(dirname "$0")/lib.sh"
(($# == 1)) || die "usage: cargo.sh DIR"
dir=$(empty_directory "$1")
need cargo git
step "a copy of floe's sources"
git -C "$project" archive HEAD | tar -x -C "$dir"
cd "$dir"
export CARGO_TARGET_DIR=$dir/target CARGO_NET_OFFLINE=true
step "cargo build"
cargo build --locked --offline -q
step "what was built runs"
target/debug/floe --version
step "a second build builds nothing"
cargo build --locked --offline 2>&1 | tee second.said
! grep -q Compiling second.said || die "it built again"
step "done"
