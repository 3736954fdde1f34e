#!/usr/bin/env bash
# Runs on each host of a slice, called by the other scripts: setup | start COMMAND... | status
set -euo pipefail

repository="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
run="$HOME/jaxretr-run" # holds the command, its process id, its log and, after its end, its exit status
export PATH="$HOME/.local/bin:$PATH"
cd "$repository"

running() { [[ -f $run/pid ]] && kill -0 "$(cat "$run/pid")" 2>/dev/null; }

case ${1:-} in
  setup)
    command -v uv >/dev/null || python3 -m pip install --user --quiet uv
    uv sync --quiet --no-default-groups --extra tpu
    ;;
  start)
    shift
    mkdir -p "$run"
    command="$(printf '%q ' "$@")"
    if running; then
      [[ $(cat "$run/command") == "$command" ]] && { echo "already running"; exit; }
      echo "error: $(hostname) is running $(cat "$run/command")" >&2
      exit 1
    fi
    rm -f "$run/status"
    echo "$command" >"$run/command"
    # shellcheck disable=SC2016 # expanded by the inner shell
    nohup setsid bash -c 'run="$1"; shift; "$@"; echo $? >"$run/status"' bash "$run" \
      uv run --no-default-groups --extra tpu "$@" >"$run/log" 2>&1 </dev/null &
    echo $! >"$run/pid"
    ;;
  status) # prints the exit status, "running", or "lost" (the host was restarted)
    if [[ -f $run/status ]]; then
      echo "job: $(cat "$run/status")"
    elif running; then
      echo "job: running"
    else
      echo "job: lost"
    fi
    ;;
  *)
    echo "error: expected setup, start or status, not '${1:-}'" >&2
    exit 2
    ;;
esac
