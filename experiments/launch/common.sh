# shellcheck shell=bash
# For the scripts beside this one: variables from flags, and the dry run.

DRY_RUN=${DRY_RUN:-}
EXTRA=()

# Says in one sentence what is wrong, and ends.
fail() {
  echo "${0##*/}: $*" >&2
  exit 2
}

# Sets NAME for every --name=value; what stands behind -- is for the program.
# The first argument lists the names there are.
read_flags() {
  local known=" $1 dry_run " flag key
  shift
  while (($#)); do
    flag=$1
    shift
    if [[ $flag == -- ]]; then
      EXTRA=("$@")
      return
    fi
    key=${flag#--}
    key=${key%%=*}
    [[ $flag == --* && $known == *" $key "* ]] ||
      fail "no such flag: $flag; --help lists them."
    if [[ $flag == *=* ]]; then
      flag=${flag#*=}
    else
      flag=1
    fi
    printf -v "$(tr '[:lower:]' '[:upper:]' <<< "$key")" '%s' "$flag"
  done
}

# need NAME 'what it is, for example ...': ends if NAME is not set.
need() {
  [[ -n ${!1:-} ]] || fail "give --$(tr '[:upper:]' '[:lower:]' <<< "$1")=$2."
}

# What runs everywhere: a config, and a folder that all hosts reach.
need_run() {
  need CONFIG 'FILE, as configs/multidomain.py:model=qwen2_5_7b'
  need WORKDIR 'gs://BUCKET/FOLDER, where the run is kept'
  [[ $WORKDIR == gs://?* ]] ||
    fail "--workdir=$WORKDIR is on one host only; give a folder in a gs:// bucket."
}

# Runs a command, or prints it for --dry_run.
run() {
  local word quote="'\\''" line=
  if [[ -z $DRY_RUN ]]; then
    "$@"
    return
  fi
  for word; do
    [[ $word =~ ^[a-zA-Z0-9_./:=,-]+$ ]] || word="'${word//\'/$quote}'"
    line+="$word "
  done
  echo "${line% }"
}
