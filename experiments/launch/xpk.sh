#!/usr/bin/env bash
# A run on GKE with xpk, which makes the cluster and the JobSet.
set -euo pipefail
ROOT=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=experiments/launch/common.sh
source "$ROOT/experiments/launch/common.sh"

usage() {
  cat << 'USAGE'
Usage: xpk.sh COMMAND --cluster=CLUSTER --zone=ZONE [--flag=value ...] [-- ARGS]

  cluster  makes a cluster with one slice
  run      starts the run
  status   lists the cluster's workloads
  stop     asks the run to save and end, and removes it
  delete   removes the cluster

Flags, or environment variables in capitals:
  --cluster, --zone                always
  --project                        if not the default
  --tpu_type=v5litepod-64          cluster, run
  --spot, --reservation=NAME       cluster: neither is on demand
  --name                           run, stop: of the run
  --image                          run: of the Dockerfile beside this script
  --config, --workdir=gs://...     run; ARGS go to gradlens.main as well
  --max_restarts=10                run
  --dry_run                        prints every command instead of running it
USAGE
}

xpk_() {
  local project=()
  [[ -z ${PROJECT:-} ]] || project=("--project=$PROJECT")
  run xpk "$@" --cluster="$CLUSTER" --zone="$ZONE" \
    ${project[@]+"${project[@]}"}
}

(($#)) || { usage && exit 2; }
COMMAND=$1
shift
case " $COMMAND $* " in *' --help '* | *' -h '* | ' help '*) usage && exit ;; esac
read_flags "cluster zone project tpu_type spot reservation name image config \
workdir max_restarts" "$@"
need CLUSTER 'CLUSTER, a name'
need ZONE 'ZONE, as us-west4-a'
case $COMMAND in cluster | run) need TPU_TYPE 'TYPE, as v5litepod-64' ;; esac
case $COMMAND in run | stop) need NAME 'NAME, of the run' ;; esac

case $COMMAND in
  cluster)
    capacity=--on-demand
    [[ -z ${SPOT:-} ]] || capacity=--spot
    [[ -z ${RESERVATION:-} ]] || capacity=--reservation=$RESERVATION
    xpk_ cluster create --tpu-type="$TPU_TYPE" --num-slices=1 "$capacity"
    ;;
  run)
    need IMAGE 'IMAGE, made with the Dockerfile beside this script'
    need_run
    # Without exec the shell that xpk starts would keep SIGTERM to itself. A host
    # that has lost another ends with 1, or with 134 where jax notices first, and
    # with 143 when asked to; xpk restarts after the last two anyway.
    printf -v command '%q ' exec python -m gradlens.main "--config=$CONFIG" \
      "--workdir=$WORKDIR" ${EXTRA[@]+"${EXTRA[@]}"}
    xpk_ workload create --workload="$NAME" --tpu-type="$TPU_TYPE" \
      --num-slices=1 --docker-image="$IMAGE" --command="${command% }" \
      --max-restarts="${MAX_RESTARTS:-10}" --restart-on-exit-codes=1 \
      --termination-grace-period-seconds=600
    ;;
  status) xpk_ workload list ;;
  stop) xpk_ workload delete --workload="$NAME" ;;
  delete) xpk_ cluster delete ;;
  *) fail "no such command: $COMMAND; --help lists them." ;;
esac
