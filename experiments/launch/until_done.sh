#!/usr/bin/env bash
# Runs a command on one host, again after every failure, until it exits with 0:
#   until_done.sh python -m gradlens.main --config=... --workdir=gs://...
# SIGTERM is handed on, and nothing is started after it. Gives up when the
# command fails more than MAX_FAILURES times in a row within ten minutes each.
# Lock, process id and exit status are files in memory: after a reboot nothing
# says that a run goes on or has ended.
set -uo pipefail

MAX_FAILURES=${MAX_FAILURES:-5}
PAUSE=${PAUSE:-30}
UNTIL_DONE=${UNTIL_DONE:-/dev/shm/until_done}

# Held by the command too: a run that outlives this script keeps another out.
exec 9> "$UNTIL_DONE.lock"
flock -n 9 || {
  echo 'until_done.sh: a run goes on here already; stop it first.' >&2
  exit 2
}
[[ ! -e $UNTIL_DONE.status ]] || {
  echo "until_done.sh: ended already; remove $UNTIL_DONE.status first." >&2
  exit 2
}
echo $$ > "$UNTIL_DONE.pid"

child=
ending=
trap 'ending=1; [[ -z $child ]] || kill -TERM "$child" 2> /dev/null' TERM INT

failures=0
while true; do
  began=$SECONDS
  "$@" < /dev/null &
  child=$!
  wait "$child"
  status=$?
  # A signal ends the wait, and not the command.
  while kill -0 "$child" 2> /dev/null; do
    wait "$child"
    status=$?
  done
  child=
  [[ $status != 0 && -z $ending ]] || break
  ((SECONDS - began < 600)) || failures=0
  if ((++failures > MAX_FAILURES)); then
    echo "until_done.sh: failed $failures times in a row; see above." >&2
    break
  fi
  echo "until_done.sh: exit status $status; again in $PAUSE seconds." >&2
  sleep "$PAUSE"
  [[ -z $ending ]] || break
done
echo "$status" > "$UNTIL_DONE.status"
exit "$status"
