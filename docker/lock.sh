#!/usr/bin/env bash
# The images' lock files, from requirements.lock: the same versions, hashed, without the tools of development.
#   control.lock  all that the project needs but torch and what only torch needs
#   torch.lock    torch and what it needs: PyPI's CUDA build
#   build.lock    uv and the wheel's builder; no image keeps them
# With TORCH_INDEX_URL, only torch.lock's variant for that index, into $TORCH_LOCK (other wheels have other hashes):
#   TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu TORCH_LOCK=docker/torch-cpu.lock docker/lock.sh
set -Eeuo pipefail
cd "$(dirname "$0")/.."
UV=${UV:-.venv/bin/uv}
UV_VERSION=$(sed -n 's/^UV_VERSION = //p' Makefile)

compile() { # OUTPUT INPUT [OPTION...]
  "$UV" pip compile "$2" --constraint requirements.lock --generate-hashes --python-version 3.11 --quiet \
    --no-annotate --custom-compile-command 'make lock' -o "$1" "${@:3}"
}

if [ -n "${TORCH_INDEX_URL:-}" ]; then
  compile "${TORCH_LOCK:?names the file to write}" - --index "$TORCH_INDEX_URL" --index-strategy unsafe-best-match <<<torch
  exit
fi
without_torch=$(mktemp)
trap 'rm -f "$without_torch"' EXIT
echo 'torch ; python_version < "3"' >"$without_torch"
compile docker/control.lock pyproject.toml --extra kafka --extra redis --extra k8s --override "$without_torch"
compile docker/torch.lock - <<<torch
compile docker/build.lock - <<<"uv==$UV_VERSION
hatchling"
