# shellcheck shell=bash
# Sourced by the other scripts: settings, gcloud, and the state of the slice.
set -euo pipefail

tpu="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

die() {
  echo "error: $*" >&2
  exit 1
}

settings="${TPU_ENV:-$tpu/env}"
[[ -f $settings ]] || die "$settings does not exist; copy tpu/env.example to this path and fill it in, or set TPU_ENV to another file"
# shellcheck source=env.example
source "$settings"
for name in TPU_PROJECT TPU_ZONE TPU_NAME TPU_TYPE TPU_RUNTIME; do
  [[ -n ${!name:-} ]] || die "$name is not set; give it a value in $settings (tpu/env.example shows one)"
done
dry_run() { [[ ${DRY_RUN:-0} == 1 ]]; }
dry_run || command -v gcloud >/dev/null || die "gcloud is not installed; install the Google Cloud CLI, or set DRY_RUN=1"

# tpus ARGS...: runs gcloud compute tpus in the project and zone of the settings, or prints the call if DRY_RUN=1.
tpus() {
  local call=(gcloud compute tpus "$@" --project="$TPU_PROJECT" --zone="$TPU_ZONE")
  if dry_run; then
    printf '%q ' "${call[@]}"
    echo
  else
    "${call[@]}"
  fi
}

# on_all COMMAND: runs a shell command on all hosts at once.
on_all() {
  tpus tpu-vm ssh "$TPU_NAME" --worker=all --command="$1" </dev/null
}

# state_of tpu-vm|queued-resources FIELD: prints the state, such as READY or ACTIVE, or ABSENT if the resource does not
# exist. If gcloud cannot tell the state, prints gcloud's error and fails. A dry run always prints ABSENT.
state_of() {
  dry_run && { echo ABSENT; return; }
  local state errors
  errors="$(mktemp)"
  if state="$(tpus "$1" describe "$TPU_NAME" --format="value($2)" 2>"$errors")"; then
    echo "$state"
  elif grep -q NOT_FOUND "$errors"; then
    echo ABSENT
  else
    cat "$errors" >&2
    rm -f "$errors"
    return 1
  fi
  rm -f "$errors"
}

slice_state() { state_of tpu-vm state; }

pause() { sleep "${TPU_POLL:-60}"; }
