#!/usr/bin/env bash
# Prints the output of the running command: tpu/logs.sh [--follow] [WORKER]. WORKER is the number of a host (default: 0)
# or "all".
# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

follow=''
[[ ${1:-} == --follow ]] && { follow=' --follow'; shift; }
tpus tpu-vm ssh "$TPU_NAME" --worker="${1:-0}" --command="tail -n 100$follow jaxretr-run/log"
