#!/usr/bin/env bash
# Prints jobset.yaml, filled in.
set -euo pipefail
ROOT=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=experiments/launch/common.sh
source "$ROOT/experiments/launch/common.sh"

usage() {
  cat << 'USAGE'
Usage: jobset.sh --flag=value ... [-- ARGS] | kubectl apply -f -

Flags, or environment variables in capitals:
  --name                           of the JobSet
  --image                          of the Dockerfile beside this script
  --accelerator=tpu-v5-lite-podslice, tpu-v5p-slice or tpu-v6e-slice
  --topology=8x8                   of the slice; its hosts are counted from it
  --config, --workdir=gs://...     the run; ARGS go to gradlens.main as well
  --chips_per_host=4
  --service_account=default        of Kubernetes, with access to the bucket
  --max_restarts=10                preemptions are not counted
  --grace_seconds=600              from SIGTERM to SIGKILL, where GKE grants it
USAGE
}

(($#)) || { usage && exit 2; }
case " $* " in *' --help '* | *' -h '*) usage && exit ;; esac
read_flags "name image accelerator topology config workdir chips_per_host \
service_account max_restarts grace_seconds" "$@"
need NAME 'NAME, of the JobSet'
need IMAGE 'IMAGE, made with the Dockerfile beside this script'
need ACCELERATOR 'TYPE, as tpu-v5-lite-podslice'
need TOPOLOGY 'SHAPE, as 8x8'
need_run
[[ $TOPOLOGY =~ ^[0-9]+(x[0-9]+)+$ ]] ||
  fail "--topology=$TOPOLOGY is not of the form 8x8 or 4x4x4."
: "${CHIPS_PER_HOST:=4}" "${SERVICE_ACCOUNT:=default}"
: "${MAX_RESTARTS:=10}" "${GRACE_SECONDS:=600}"
chips=$((${TOPOLOGY//x/*}))
((chips % CHIPS_PER_HOST == 0)) ||
  fail "--topology=$TOPOLOGY has $chips chips, no multiple of" \
    "--chips_per_host=$CHIPS_PER_HOST."
export HOSTS=$((chips / CHIPS_PER_HOST))

# All values stand in double quotes there.
for word in "${NAME}${IMAGE}${CONFIG}${WORKDIR}" ${EXTRA[@]+"${EXTRA[@]}"}; do
  [[ $word != *[\"\\]* ]] || fail "$word has a quote or a backslash."
done
manifest=$(< "$ROOT/experiments/launch/jobset.yaml")
for key in NAME IMAGE ACCELERATOR TOPOLOGY CONFIG WORKDIR CHIPS_PER_HOST \
  SERVICE_ACCOUNT MAX_RESTARTS GRACE_SECONDS HOSTS; do
  manifest=${manifest//"\${$key}"/"${!key}"}
done
more=
for word in ${EXTRA[@]+"${EXTRA[@]}"}; do
  more+=$'\n'"                    - \"$word\""
done
echo "${manifest/"$WORKDIR\""/"$WORKDIR\"$more"}"
