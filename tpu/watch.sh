#!/usr/bin/env bash
# Sees a command through to its end: creates the slice, sets it up, runs the command, and where the slice is taken away
# deletes what is left, creates it anew and runs the same command, which resumes from its checkpoint.
#
#   tpu/watch.sh scripts/train.py --config configs/hybrid_xlmr_base.py --config.output_dir={bucket}/runs/base
#
# Ends with the command's own exit status. Interrupted, it may be started again: a command that runs is left alone.
# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

[[ $# -gt 0 ]] || die "no command; expected one such as tpu/watch.sh scripts/train.py --config configs/hybrid.py"

say() { echo "$(date +%T) $*"; }

begin() { "$tpu/create.sh" && "$tpu/setup.sh" && "$tpu/run.sh" "$@"; }

# What the hosts say of the command: the first exit status that is not 0, "running", "lost", or 0 once all have ended.
job_status() {
  local answers
  answers="$(on_all 'jaxretr/tpu/on_host.sh status' 2>/dev/null | sed -n 's/^job: //p')" || true
  grep -m1 -E '^[1-9][0-9]*$' <<<"$answers" || grep -m1 -E 'lost|running' <<<"$answers" || echo "${answers:+0}"
}

begin "$@"
dry_run && exit

failures=0 # looks in a row that found the command failed on a slice that is there
while pause; do
  state="$(slice_state)" || continue
  case $state in
    READY) ;;
    PREEMPTED | TERMINATED | STOPPED | ABSENT)
      say "$TPU_NAME is $state; creating it anew"
      failures=0
      until "$tpu/delete.sh" && begin "$@"; do
        say "that failed; trying again"
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
  say "the command: ${status:-no answer}"
  case $status in
    0) exit ;;
    '' | running) failures=0 ;;
    lost) "$tpu/run.sh" "$@" || say "starting it again failed" ;;
    *) # When one host is taken away the command fails on the others, before the slice is known to be preempted.
      failures=$((failures + 1))
      if [[ $failures -gt 2 ]]; then
        tpus tpu-vm ssh "$TPU_NAME" --worker=all --command='tail -n 30 jaxretr-run/log' </dev/null || true
        exit "$status"
      fi
      ;;
  esac
done
