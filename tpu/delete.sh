#!/usr/bin/env bash
# Deletes the slice and its request in the queue, if they exist.
# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# delete_if_present COMMAND...: runs a command that deletes a resource; it is not an error if the resource is absent.
delete_if_present() {
  local errors
  errors="$(mktemp)"
  "$@" 2>"$errors" || grep -q NOT_FOUND "$errors" || { cat "$errors" >&2; rm -f "$errors"; exit 1; }
  rm -f "$errors"
}

if [[ ${TPU_QUEUED:-0} == 1 ]]; then
  delete_if_present tpus queued-resources delete "$TPU_NAME" --force --quiet
fi
delete_if_present tpus tpu-vm delete "$TPU_NAME" --quiet
