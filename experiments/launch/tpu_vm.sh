#!/usr/bin/env bash
# A run on the hosts of a Cloud TPU slice, with nothing but gcloud.
set -euo pipefail
ROOT=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=experiments/launch/common.sh
source "$ROOT/experiments/launch/common.sh"

# Files of until_done.sh on a host, without their endings.
UNTIL_DONE=${UNTIL_DONE:-/dev/shm/until_done}

usage() {
  cat << 'USAGE'
Usage: tpu_vm.sh COMMAND --name=NAME --zone=ZONE [--flag=value ...] [-- ARGS]

  create   asks for a slice, and waits until it is there
  setup    copies this checkout to all hosts, and installs it
  run      starts the run on all hosts, which start it again until it is done
  watch    waits for the end; where the slice was taken away, gets another one,
           and the run goes on from its workdir
  status   the slice's state, and each host's last line
  logs     follows the log of a host (--worker=0)
  stop     asks the run to save and end
  delete   gives the slice back

Flags, or environment variables in capitals:
  --name, --zone                   always
  --project, --service_account     if not the defaults
  --accelerator_type=v5litepod-64  create, watch
  --version=v2-alpha-tpuv5-lite    create, watch: the TPU software version
  --spot                           create, watch: cheaper, and may be taken away
  --config, --workdir=gs://...     run, watch; ARGS go to gradlens.main as well
  --dry_run                        prints every command instead of running it
USAGE
}

tpus() {
  local project=()
  [[ -z ${PROJECT:-} ]] || project=("--project=$PROJECT")
  run gcloud compute tpus "$@" --zone="$ZONE" ${project[@]+"${project[@]}"}
}

on_all() {
  tpus tpu-vm ssh "$NAME" --worker=all --command="$1"
}

state() {
  tpus queued-resources describe "$NAME" --format='value(state.state)'
}

create() {
  local options=() is
  [[ -z ${SPOT:-} ]] || options+=(--spot)
  [[ -z ${SERVICE_ACCOUNT:-} ]] ||
    options+=("--service-account=$SERVICE_ACCOUNT")
  tpus queued-resources create "$NAME" --node-id="$NAME" \
    --accelerator-type="$ACCELERATOR_TYPE" --runtime-version="$VERSION" \
    ${options[@]+"${options[@]}"}
  while true; do
    is=$(state)
    [[ -z $DRY_RUN ]] || { echo "$is" && return; }
    case $is in
      ACTIVE) return ;;
      FAILED | SUSPEND*) fail "the request for $NAME is $is; delete it." ;;
    esac
    echo "$NAME: $is"
    sleep 30
  done
}

setup() {
  local archive
  archive=${TMPDIR:-/tmp}/gradlens-$NAME.tar.gz
  run tar -czf "$archive" -C "$ROOT" --exclude='./.git' \
    --exclude='./.venv*' --exclude='./runs' --exclude='./build' .
  tpus tpu-vm scp "$archive" "$NAME:gradlens.tar.gz" --worker=all
  on_all "mkdir -p gradlens && tar -xzf gradlens.tar.gz -C gradlens &&\
 bash gradlens/experiments/launch/install.sh"
}

# Where a shell's condition holds, on each host for itself.
start() {
  local command
  printf -v command '%q ' .venv/bin/python -m gradlens.main \
    "--config=$CONFIG" "--workdir=$WORKDIR" ${EXTRA[@]+"${EXTRA[@]}"}
  on_all "cd gradlens && if $1; then\
 UNTIL_DONE=$UNTIL_DONE nohup bash experiments/launch/until_done.sh $command\
>> run.log 2>&1 < /dev/null & fi"
}

remove() {
  tpus queued-resources delete "$NAME" --force --quiet
}

watch() {
  local is status
  while true; do
    is=$(state || true)
    # A host that cannot be reached now may be reached in a minute.
    status=$(tpus tpu-vm ssh "$NAME" --worker=0 \
      --command="cat $UNTIL_DONE.status || true" || true)
    if [[ -n $DRY_RUN ]]; then
      echo "$is"
      echo "$status"
    elif [[ $is == ACTIVE && $status == 0 ]]; then
      return
    elif [[ $is == ACTIVE && -n $status ]]; then
      fail "the run ended with exit status $status; see: tpu_vm.sh logs."
    fi
    if [[ -n $DRY_RUN || $is == ACTIVE ]]; then
      # A host that was rebooted.
      start "flock -n $UNTIL_DONE.lock [ ! -e $UNTIL_DONE.status ]" || true
    fi
    if [[ -n $DRY_RUN || $is == SUSPENDED || $is == FAILED ]]; then
      remove
      create
      setup
      start "rm -f $UNTIL_DONE.status"
    fi
    [[ -z $DRY_RUN ]] || return 0
    sleep 60
  done
}

(($#)) || { usage && exit 2; }
COMMAND=$1
shift
case " $COMMAND $* " in *' --help '* | *' -h '* | ' help '*) usage && exit ;; esac
read_flags "name zone project service_account accelerator_type version spot \
config workdir worker" "$@"
need NAME 'NAME, of the slice'
need ZONE 'ZONE, as us-west4-a'
case $COMMAND in create | watch)
  need ACCELERATOR_TYPE 'TYPE, as v5litepod-64'
  need VERSION 'VERSION, the TPU software, as v2-alpha-tpuv5-lite'
  ;;
esac
case $COMMAND in run | watch) need_run ;; esac

case $COMMAND in
  create | setup | watch) "$COMMAND" ;;
  run) start "rm -f $UNTIL_DONE.status" ;;
  status)
    state
    on_all 'tail -n 1 gradlens/run.log'
    ;;
  logs)
    tpus tpu-vm ssh "$NAME" --worker="${WORKER:-0}" \
      --command='tail -n 100 -F gradlens/run.log'
    ;;
  stop) on_all "kill -TERM \$(cat $UNTIL_DONE.pid)" ;;
  delete) remove ;;
  *) fail "no such command: $COMMAND; --help lists them." ;;
esac
