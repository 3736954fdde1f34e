#!/usr/bin/env bash
# Deletes the slice and its place in the queue. Does nothing where they are gone.
# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# gone COMMAND...: runs it; that there is nothing to delete is no error.
gone() {
  local errors
  errors="$(mktemp)"
  "$@" 2>"$errors" || grep -q NOT_FOUND "$errors" || { cat "$errors" >&2; rm -f "$errors"; exit 1; }
  rm -f "$errors"
}

if [[ ${TPU_QUEUED:-0} == 1 ]]; then
  gone tpus queued-resources delete "$TPU_NAME" --force --quiet
fi
gone tpus tpu-vm delete "$TPU_NAME" --quiet
