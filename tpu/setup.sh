#!/usr/bin/env bash
# Installs the last commit of this checkout and its environment on all hosts. It can be run again at any time.
# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

archive="$(mktemp -d)/jaxretr.tar.gz"
trap 'rm -rf "$(dirname "$archive")"' EXIT
git -C "$tpu/.." diff --quiet HEAD || echo "note: uncommitted changes are not copied" >&2
git -C "$tpu/.." archive --format=tar.gz --output="$archive" HEAD
tpus tpu-vm scp "$archive" "$TPU_NAME:jaxretr.tar.gz" --worker=all
on_all 'mkdir -p jaxretr && tar -xzf jaxretr.tar.gz -C jaxretr && jaxretr/tpu/on_host.sh setup'
