#!/usr/bin/env bash
# Runs a command to its end, through preemptions of the slice: creates the slice, sets it up and runs the command. If
# the slice is preempted, deletes it, creates it again and runs the same command, which resumes from its checkpoint.
#
#   tpu/watch.sh scripts/train.py --config configs/hybrid_xlmr_base.py --config.output_dir={bucket}/runs/base
#
# Exits with the command's exit status. After an interruption, start it again: a running command is not disturbed.
# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

[[ $# -gt 0 ]] || die "no command; expected one such as tpu/watch.sh scripts/train.py --config configs/hybrid.py"

say() { echo "$(date +%T) $*"; }

begin() { "$tpu/create.sh" && "$tpu/setup.sh" && "$tpu/run.sh" "$@"; }

# Prints the status of the command on all hosts: the first exit status that is not 0, else "running" or "lost", else 0.
job_status() {
  local answers
  answers="$(on_all 'jaxretr/tpu/on_host.sh status' 2>/dev/null | sed -n 's/^job: //p')" || true
  grep -m1 -E '^[1-9][0-9]*$' <<<"$answers" || grep -m1 -E 'lost|running' <<<"$answers" || echo "${answers:+0}"
}

begin "$@"
dry_run && exit

failures=0 # consecutive checks that found a failed command on a ready slice
while pause; do
  state="$(slice_state)" || continue
  case $state in
    READY) ;;
    PREEMPTED | TERMINATED | STOPPED | ABSENT)
      say "$TPU_NAME is $state; creating it again"
      failures=0
      until "$tpu/delete.sh" && begin "$@"; do
        say "creating the slice or starting the command failed; trying again"
        pause
      done
      continue
      ;;
    *)
      say "$TPU_NAME is $state"
      continue
      ;;
  esac
  status="$(job_status)"
  say "command: ${status:-no answer}"
  case $status in
    0) exit ;;
    '' | running) failures=0 ;;
    lost) "$tpu/run.sh" "$@" || say "restarting the command failed" ;;
    *) # If one host is preempted, the command fails on the other hosts before gcloud reports the preemption.
      failures=$((failures + 1))
      if [[ $failures -gt 2 ]]; then
        tpus tpu-vm ssh "$TPU_NAME" --worker=all --command='tail -n 30 jaxretr-run/log' </dev/null || true
        exit "$status"
      fi
      ;;
  esac
done
