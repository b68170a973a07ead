#!/usr/bin/env bash
# The session that README.md shows, as a new user would type it: first_use.sh FLOE DIR [README]
# Takes the commands from README.md (lines that begin with "    $ " after "A session, as it was"), runs them in DIR, which must
# be an empty directory, and prints what README.md should have there. Ends with 1 if a command fails that does not show its
# status itself ("; echo $?").
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
(($# == 2 || $# == 3)) || die "usage: first_use.sh FLOE DIR [README]"
floe=$(realpath "$1")
readme=$(realpath "${3:-$project/README.md}")
dir=$(empty_directory "$2")
need diff

mapfile -t commands < <(awk '/^A session, as it was/ { on = 1; next } on && /^    \$ / { print substr($0, 7); seen = 1 }
  on && seen && !/^    / { exit }' "$readme")
((${#commands[@]} > 0)) || die "no session in $readme"

bin=$(mktemp -d)
ln -s "$floe" "$bin/floe"
PATH=$bin:$PATH
trap 'rm -r "$bin"; ! mountpoint -q "$dir/mnt" || umount -l "$dir/mnt"' EXIT
cd "$dir"
failed=0
for command in "${commands[@]}"; do
  printf '    $ %s\n' "$command"
  status=0
  (eval "$command") >"$bin/out" 2>&1 </dev/null || status=$?
  sed 's/^/    /' "$bin/out"
  ((status == 0)) || { failed=1; echo "    (status $status)"; }
done
exit "$failed"
