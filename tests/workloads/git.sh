#!/usr/bin/env bash
# git.sh DIR: git init, a commit of the sources, clone, gc, fsck, and a clean status of both, in the empty directory DIR.
source "$(dirname "$0")/lib.sh"
(($# == 1)) || die "usage: git.sh DIR"
dir=$(empty_directory "$1")
need git rsync
[[ -d $sources ]] || die "no $sources: name a tree with SOURCES"
cd "$dir"
as=(-c user.name=floe -c user.email=floe@example.org -c gc.auto=0 -c core.fsync=all)
step "a copy of $sources"
mkdir origin
rsync -a "$sources/" origin/
step "git init, add, commit"
git init -q -b main origin
git -C origin "${as[@]}" add -f -A
git -C origin "${as[@]}" commit -q -m sources
step "git clone"
git clone -q --no-hardlinks origin clone
step "git gc"
git -C origin "${as[@]}" gc -q
git -C clone "${as[@]}" gc -q
step "git fsck"
for tree in origin clone; do
  git -C "$tree" fsck --full --strict --no-dangling 2>fsck.said || { cat fsck.said; die "fsck of $tree"; }
  [[ -z $(git -C "$tree" status --porcelain) ]] || die "$tree is not clean"
done
[[ $(git -C origin rev-parse HEAD^{tree}) == "$(git -C clone rev-parse HEAD^{tree})" ]] || die "the clone has another tree"
[[ $(git -C clone ls-files | wc -l) == "$(find "$sources" -type f -o -type l | wc -l)" ]] || die "files are missing"
step "done"
