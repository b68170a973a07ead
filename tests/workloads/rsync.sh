#!/usr/bin/env bash
# rsync.sh DIR: the sources by rsync, twice, into the empty directory DIR: the second time transfers nothing and changes
# nothing.
source "$(dirname "$0")/lib.sh"
(($# == 1)) || die "usage: rsync.sh DIR"
dir=$(empty_directory "$1")
need rsync
[[ -d $sources ]] || die "no $sources: name a tree with SOURCES"
mkdir "$dir/tree"
step "first"
rsync -aHAXS "$sources/" "$dir/tree/"
step "second"
rsync -aHAXS -i --stats "$sources/" "$dir/tree/" >"$dir/said"
changes=$(grep -cE '^[<>ch.*][fdLDS]' "$dir/said" || true)
grep -E '^(Number of files|Number of regular files transferred|Total transferred file size)' "$dir/said"
((changes == 0)) || { head -n 20 "$dir/said"; die "the second run changed $changes files"; }
grep -q '^Number of regular files transferred: 0$' "$dir/said" || die "the second run transferred files"
step "done"
