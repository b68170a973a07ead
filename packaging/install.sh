#!/usr/bin/env bash
# Installs floe without a package: install.sh [FLOE [PREFIX]]
# FLOE is the program (by default target/dist/floe, else target/release/floe), PREFIX where it goes (by default /usr/local).
# Manual pages and completions are made by the program itself. mount(8) looks for its helper in /sbin only, so the link
# mount.floe goes to /usr/sbin where PREFIX is /usr, and to /sbin otherwise. DESTDIR is put before all paths, as in make install.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
project=$(dirname "$here")
floe=${1:-$project/target/dist/floe}
[[ $# -gt 0 || -x $floe ]] || floe=$project/target/release/floe
[[ -x $floe ]] || { echo "install.sh: no program $floe: build it (cargo build --profile dist)" >&2; exit 1; }
floe=$(realpath "$floe")
prefix=${2:-/usr/local}
root=${DESTDIR:-}
share=$root$prefix/share

install -D -m 755 "$floe" "$root$prefix/bin/floe"

# One page for floe and one for each command that floe's own page lists.
man1=$share/man/man1
install -d "$man1" "$share/man/man8"
"$floe" man >"$man1/floe.1"
mapfile -t commands < <(sed -n 's/^floe\\-\([a-z]*\)(1)$/\1/p' "$man1/floe.1")
((${#commands[@]} > 0)) || { echo "install.sh: floe's manual page lists no commands" >&2; exit 1; }
for command in "${commands[@]}"; do
  [[ $command == help ]] || "$floe" man "$command" >"$man1/floe-$command.1"
done
echo '.so man1/floe-mount.1' >"$share/man/man8/mount.floe.8"

case $prefix in
  # where Debian's packages have them
  /usr) zsh=$share/zsh/vendor-completions fish=$share/fish/vendor_completions.d sbin=$root/usr/sbin ;;
  *) zsh=$share/zsh/site-functions fish=$share/fish/vendor_completions.d sbin=$root/sbin ;;
esac
install -d "$share/bash-completion/completions" "$zsh" "$fish" "$sbin"
"$floe" completions bash >"$share/bash-completion/completions/floe"
"$floe" completions zsh >"$zsh/_floe"
"$floe" completions fish >"$fish/floe.fish"

ln -sfn "$prefix/bin/floe" "$sbin/mount.floe"

install -D -m 644 "$here/magic" "$share/floe/magic"
for example in fstab.example photos.mount photos.automount; do
  install -D -m 644 "$here/$example" "$share/doc/floe/examples/$example"
done
