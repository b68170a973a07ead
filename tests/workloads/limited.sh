# Running what may hang in a mount; sourced by lib.sh and by benches/writing.sh.
# shellcheck shell=bash

# connection MOUNT: the number of the FUSE connection that is mounted there
connection() { awk -v dir="$1" '$5 == dir { split($3, d, ":"); last = d[2] } END { print last }' /proc/self/mountinfo; }

# abort_connection NUMBER: every caller that waits gets an error, and the daemon ends
abort_connection() {
  mountpoint -q /sys/fs/fuse/connections || mount -t fusectl none /sys/fs/fuse/connections
  [[ -z $1 || ! -e /sys/fs/fuse/connections/$1/abort ]] || echo 1 >"/sys/fs/fuse/connections/$1/abort"
}

# limited SECONDS MOUNT COMMAND...: runs a command in its own process group. Past the limit the FUSE connection of MOUNT
# ("-": none) is aborted and the group is killed: a request that is never answered would hold its caller for ever.
# The group's number is in the file $limited_group (whoever sources this names one) while the command runs; who is
# interrupted calls kill_limited.
limited() {
  local limit=$1 mount=$2 device child gate status=0
  shift 2
  device=$([[ $mount == - ]] || connection "$mount")
  # Who watches is told by a line that it is over, not by a signal: one that came early would find our traps in it.
  exec {gate}> >(
    read -r -t "$limit" && exit
    (($? > 128)) || exit 0
    echo "past the limit of $limit s: $*" >&2
    read -r child <"$limited_group"
    abort_connection "$device" || true
    kill -KILL -- "-$child" 2>/dev/null || true
  )
  setsid "$@" {gate}>&- &
  child=$!
  echo "$child" >"$limited_group"
  wait "$child" || status=$?
  # In a shell of its own: where the limit has passed nobody reads.
  (echo >&"$gate") 2>/dev/null || true
  exec {gate}>&-
  : >"$limited_group"
  return "$status"
}

kill_limited() {
  local group
  [[ -s ${limited_group:-/dev/null} ]] && read -r group <"$limited_group" && kill -KILL -- "-$group" 2>/dev/null || true
}
