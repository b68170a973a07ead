#!/usr/bin/env bash
# The Debian package in a fresh Debian: chroot.sh PACKAGE DIR
# Makes a minimal Debian in DIR/debian (debootstrap; one that is there is used again), installs PACKAGE in a copy of it, and tries what README.md
# promises of an installation: its quick start, fstab, an ordinary user, manual pages, completions, file(1), removal. Prints each
# command with its output, and ends with 1 at the first thing that is not as it should be.
# RUST=1: also README's two commands, from the committed sources, with this machine's Rust toolchain bind-mounted (long).
# Needs root, debootstrap, /dev/fuse and the network. SUITE (bookworm) and MIRROR name the Debian. Everything runs in mount and process
# namespaces of its own: whatever happens, no mount and no process is left.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
readme=$project/README.md
rust_packages=(gcc libc6-dev)

outside() { # makes the Debian, and goes on inside of new namespaces
  (($# == 2)) || die "usage: chroot.sh PACKAGE DIR"
  ((EUID == 0)) || die "needs root"
  [[ -c /dev/fuse ]] || die "there is no /dev/fuse"
  PATH=$PATH:/usr/sbin:/sbin need debootstrap unshare
  local package fresh root status=0
  package=$(realpath "$1")
  mkdir -p "$2"
  fresh=$(realpath "$2")/debian root=$(realpath "$2")/run
  if [[ ! -e $fresh/complete ]]; then
    step "debootstrap ${SUITE:=bookworm}"
    rm -rf "$fresh"
    PATH=$PATH:/usr/sbin:/sbin debootstrap --variant=minbase "$SUITE" "$fresh" "${MIRROR:-http://deb.debian.org/debian}" >"$fresh.log" 2>&1 ||
      die "debootstrap failed: see $fresh.log"
    touch "$fresh/complete"
  fi
  rm -rf "$root"
  cp -a --reflink=auto "$fresh" "$root"
  install -m 644 "$package" "$root/floe.deb"
  cp /etc/resolv.conf "$root/etc/resolv.conf"
  mkdir "$root/tests"
  cp "$here"/{chroot,lib,limited}.sh "$readme" "$root/tests/"
  if [[ -n ${RUST:-} ]]; then
    mkdir "$root/floe"
    git -C "$project" archive HEAD | tar -x -C "$root/floe"
    mkdir -p "$root/toolchain" "$root/registry"
  fi
  unshare --mount --pid --fork --kill-child --propagation private "$0" --enter "$root" "$(rustc --print sysroot 2>/dev/null || true)" \
    "${CARGO_HOME:-$HOME/.cargo}/registry" || status=$?
  rm -rf "$root"
  exit "$status"
}

enter() { # in the namespaces: what a running Debian has, then the tests
  local root=$1 sysroot=$2 registry=$3
  mount -t proc proc "$root/proc"
  mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
  mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
  touch "$root/dev/fuse"
  mount --bind /dev/fuse "$root/dev/fuse"
  ln -sfn pts/ptmx "$root/dev/ptmx"
  # The installer makes this link; fusermount3 does not work without.
  ln -sfn ../proc/self/mounts "$root/etc/mtab"
  if [[ -n ${RUST:-} ]]; then
    mount --bind -o ro "$sysroot" "$root/toolchain"
    mount --bind "$registry" "$root/registry"
  fi
  # As the child of process 1 of the namespace, which has to collect orphans: bash does.
  env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb RUST="${RUST:-}" \
    chroot "$root" /bin/bash /tests/chroot.sh --inside
}

# show COMMAND: runs it, prints it with its output, which stays in $out; fails if the command fails
show() {
  printf '    $ %s\n' "$1"
  local status=0
  out=$(eval "$1" 2>&1 </dev/null) || status=$?
  [[ -z $out ]] || sed 's/^/    /' <<<"$out"
  ((status == 0)) || die "'$1' ended with status $status"
}
# expect WORDS...: each of them is in the output of the last command
expect() {
  local word
  for word; do [[ $out == *"$word"* ]] || die "the output has no '$word'"; done
}

inside() {
  export DEBIAN_FRONTEND=noninteractive
  mkdir -p /root/try /data /photos /archive /notes
  cd /root/try

  step "the package installs, with what it depends on"
  apt-get update -qq
  show 'apt-get install -y -qq --no-install-recommends /floe.deb >/dev/null 2>&1; dpkg-query -W floe fuse3'
  expect floe fuse3
  show 'floe --version'
  show 'dpkg -L floe | xargs ls -dl | grep -v ^d'
  expect /usr/share/man/man1/floe-pack.1.gz /usr/share/doc/floe/copyright /usr/share/doc/floe/examples/photos.automount
  show 'readlink -f /sbin/mount.floe'
  expect /usr/bin/floe

  step "README's quick start"
  apt-get install -y -qq --no-install-recommends "${rust_packages[@]}" >/dev/null 2>&1
  local commands command
  mapfile -t commands < <(awk '/^## Quick start/ { on = 1; next } on && /^## / { exit } on && /^    \$ / { print substr($0, 7) }' /tests/README.md)
  ((${#commands[@]} > 3)) || die "no quick start in README.md"
  for command in "${commands[@]}"; do show "$command"; done
  expect "no damage"
  rm -rf include.floe mnt

  step "fstab"
  show 'floe pack -q /usr/share/doc /data/photos.floe && cp /data/photos.floe /data/archive.floe && floe mkfs -q /data/notes.floe'
  show 'cp /usr/share/doc/floe/examples/fstab.example /etc/fstab'
  mapfile -t commands < <(sed -n 's/^    \(\/data\/.* floe .*\)/\1/p' /tests/README.md)
  ((${#commands[@]} == 2)) || die "README.md has ${#commands[@]} lines of fstab, not 2"
  for command in "${commands[@]}"; do
    # The same mount point, options and all, as README has them.
    sed -i "\\,^[^#]* $(awk '{ print $2 }' <<<"$command") ,d" /etc/fstab
    echo "$command" >>/etc/fstab
  done
  show 'grep ^/ /etc/fstab'
  show 'mount -a'
  show 'findmnt -n -t fuse.floe -o SOURCE,TARGET,FSTYPE,OPTIONS'
  expect /data/photos.floe /data/notes.floe fuse.floe
  show 'ls /photos/floe'
  expect README.md
  show 'echo kept >/notes/file && umount /notes /photos && ls /data'
  show 'mount -v /notes; cat /notes/file; umount /notes'
  expect kept
  show 'mount -t floe -o ro /data/archive.floe /archive && ls /archive | wc -l && umount /archive'
  # Nobody waits here for a daemon that ends after umount(8): a lock that it has still would say so.
  show 'floe check /data/photos.floe && floe check /data/notes.floe'

  step "an ordinary user"
  useradd --create-home somebody
  chmod 666 /dev/fuse
  show 'su somebody -c "cd && mkdir mnt && floe mkfs -q own.floe && floe mount own.floe mnt && echo mine >mnt/file && floe umount mnt && floe cat own.floe file"'
  expect mine

  step "manual pages"
  apt-get install -y -qq --no-install-recommends man-db bash-completion zsh fish file >/dev/null 2>&1
  show 'MANWIDTH=80 man floe-pack | head -n 12'
  expect "floe-pack(1)" SYNOPSIS
  show 'MANWIDTH=80 man mount.floe | head -n 5'
  expect "floe-mount(1)"
  show 'man -w floe floe-mount floe-freeze'

  step "completions"
  cat >complete.bash <<'BASH'
source /usr/share/bash-completion/bash_completion
_completion_loader floe
COMP_WORDS=("$@" "") COMP_CWORD=$# COMPREPLY=()
$(complete -p floe | sed 's/.*-F \([^ ]*\).*/\1/') floe "" "${!#}"
echo "${COMPREPLY[@]}"
BASH
  show 'bash complete.bash floe pack --profile'
  expect fast balanced small smallest
  show 'bash complete.bash floe --progress'
  expect auto plain none
  show 'fish -c "complete -C \"floe pack --profile \"" | cut -f 1'
  expect fast balanced small smallest
  cat >complete.zsh <<'ZSH'
# A shell in a terminal of its own, which is asked for all that it completes.
zmodload zsh/zpty
zpty shell 'TERM=dumb PS1="ready> " zsh -f -i'
zpty -w shell 'autoload -U compinit && compinit -u -D; zstyle ":completion:*" list-separator --; setopt nolistbeep; LISTMAX=1000'
zpty -w -n shell $'floe pack --profile \t\t'
zpty -r -t shell
integer waited=0
until [[ $all == *smallest* || waited -gt 100 ]]; do
  zpty -r -t shell part 2>/dev/null && all+=$part
  sleep 0.1
  (( ++waited ))
done
print -r -- "${all//$'\r'/}" | grep -e '  -- '
zpty -d shell
ZSH
  show 'timeout 60 zsh -f complete.zsh'
  expect fast balanced small smallest

  step "file(1)"
  show 'file -m /usr/share/floe/magic /data/photos.floe'
  expect "floe image, version 1, UUID"
  show 'cat /usr/share/floe/magic >/etc/magic && file /data/photos.floe'
  expect "floe image, version 1, UUID"

  if [[ -n ${RUST:-} ]]; then
    step "README's two commands"
    mkdir -p /root/.cargo && ln -sfn /registry /root/.cargo/registry
    export PATH=/toolchain/bin:$PATH CARGO_NET_OFFLINE=true
    cd /floe
    show 'cargo run -q --release --locked -- pack /usr/include /root/try/built.floe'
    expect "packed"
    show 'target/release/floe check /root/try/built.floe'
    expect "no damage"
    show 'cargo test --locked 2>&1 | grep -E "^test result|^left out|^  left|FAILED|panicked|error" | sort | uniq -c | sort -rn | head -n 60'
    [[ $out != *FAILED* && $out != *error* ]] || die "tests failed"
    cd /root/try
  fi

  step "removal"
  show 'apt-get purge -y -qq floe >/dev/null 2>&1; find / -xdev -iname "*floe*" -path "/usr/*" -not -path "/usr/include/*"'
  [[ -z $out ]] || die "something is left"
  step "all as it should be"
}

case ${1:-} in
  --enter) shift && enter "$@" ;;
  --inside) inside ;;
  *) outside "$@" ;;
esac
