#!/usr/bin/env bash
# Starts a command on all hosts, such as tpu/run.sh scripts/train.py --config configs/hybrid_xlmr_base.py
#
# The command keeps running when this machine is switched off; tpu/logs.sh shows its output. {bucket} in an argument
# stands for TPU_BUCKET. While a command runs, starting it again has no effect, and another command is refused.
# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

[[ $# -gt 0 ]] || die "no command; expected one such as tpu/run.sh scripts/train.py --config configs/hybrid.py"

variables=()
for name in ${TPU_FORWARD:-}; do
  [[ -n ${!name:-} ]] && variables+=("$name=${!name}")
done

# JAX finds the hosts of a slice by itself if this address says that there are several.
if dry_run; then
  hosts='HOST_0;HOST_1'
else
  hosts="$(tpus tpu-vm describe "$TPU_NAME" --format='value(networkEndpoints[].ipAddress)')"
fi
[[ $hosts == *';'* ]] && variables+=("JAX_COORDINATOR_ADDRESS=${hosts%%;*}:8476")

arguments=()
for argument in "$@"; do
  if [[ $argument == *'{bucket}'* ]]; then
    [[ -n ${TPU_BUCKET:-} ]] || die "$argument needs TPU_BUCKET, which is not set; give it a value in $settings"
    argument="${argument//'{bucket}'/"$TPU_BUCKET"}"
  fi
  arguments+=("$argument")
done

on_all "$(printf '%q ' env "${variables[@]}" jaxretr/tpu/on_host.sh start "${arguments[@]}")"
