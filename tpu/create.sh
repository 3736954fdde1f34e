#!/usr/bin/env bash
# Creates the slice described in tpu/env, directly or through the queue, and returns when the slice is ready. A ready
# slice is kept.
# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

state="$(slice_state)"
case $state in
  READY)
    echo "$TPU_NAME is ready"
    exit
    ;;
  PREEMPTED | TERMINATED | STOPPED) die "$TPU_NAME is $state; delete it first: tpu/delete.sh" ;;
esac

spot=()
[[ ${TPU_SPOT:-0} == 1 ]] && spot=(--spot)

if [[ ${TPU_QUEUED:-0} == 1 ]]; then
  queued="$(state_of queued-resources state.state)"
  [[ $queued == SUSPENDED || $queued == FAILED ]] && die "the request for $TPU_NAME is $queued; delete it: tpu/delete.sh"
  if [[ $queued == ABSENT ]]; then
    tpus queued-resources create "$TPU_NAME" --node-id="$TPU_NAME" --accelerator-type="$TPU_TYPE" \
      --runtime-version="$TPU_RUNTIME" "${spot[@]}"
  fi
elif [[ $state == ABSENT ]]; then
  tpus tpu-vm create "$TPU_NAME" --accelerator-type="$TPU_TYPE" --version="$TPU_RUNTIME" "${spot[@]}"
fi
dry_run && exit

until [[ $state == READY ]]; do
  if [[ ${TPU_QUEUED:-0} == 1 ]]; then
    queued="$(state_of queued-resources state.state)"
    [[ $queued == SUSPENDED || $queued == FAILED || $queued == ABSENT ]] &&
      die "the request for $TPU_NAME is $queued; delete it and try again: tpu/delete.sh"
    echo "$(date +%T) the request for $TPU_NAME is $queued"
  fi
  state="$(slice_state)"
  [[ $state == READY ]] || pause
done
echo "$TPU_NAME is ready"
