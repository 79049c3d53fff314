#!/usr/bin/env bash
# [control] [ray]: build the images (both, where none is named) by docker, podman or buildah, whichever is there, and
# print NAME@DIGEST of each, which is how the chart takes them.
#   IMAGE_PREFIX   registry and name before `-control` and `-ray` (local/evermodel)      IMAGE_TAG  (dev)
#   PUSH=1         push them, too: the digest is then the registry's. An image that wasn't pushed has the digest of this
#                  machine's copy, and a tool that packs its layers anew for a node prints another one
#   TORCH_INDEX_URL, TORCH_LOCK   another variant of torch, with the lock file of its index (docker/lock.sh writes it)
#   SOURCE_URL, BUILD_OPTIONS     a label; more options for the builder, as they are
set -Eeuo pipefail
cd "$(dirname "$0")/.."

builder() {
  local b
  for b in docker podman buildah; do
    case $b in
      docker) docker buildx version && docker info ;;
      *) "$b" version ;;
    esac >/dev/null 2>&1 && echo "$b" && return
  done
  echo "images need docker with buildx, podman or buildah" >&2
  return 1
}

BUILDER=${BUILDER:-$(builder)}
prefix=${IMAGE_PREFIX:-local/evermodel}
case ${prefix%%/*} in *.* | *:* | localhost) ;; *) prefix=docker.io/$prefix ;; esac
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
if [ -n "$(git status --porcelain 2>/dev/null)" ]; then revision=$revision-dirty; fi
arguments=(--build-arg "GIT_REVISION=$revision" --build-arg "SOURCE_URL=${SOURCE_URL:-}")
if [ -n "${TORCH_INDEX_URL:-}" ]; then
  arguments+=(--build-arg "TORCH_INDEX_URL=$TORCH_INDEX_URL" --build-arg "TORCH_LOCK=${TORCH_LOCK:?the lock file of that index}")
fi
read -ra more <<<"${BUILD_OPTIONS:-}"
answer=$(mktemp)
trap 'rm -f "$answer"' EXIT

if [ $# = 0 ]; then set -- control ray; fi
for role; do
  image=$prefix-$role:${IMAGE_TAG:-dev}
  options=("${more[@]}" --target "$role" "${arguments[@]}" --tag "$image" --file docker/Dockerfile)
  case $BUILDER in
    docker)
      docker buildx build "${options[@]}" "$([ -n "${PUSH:-}" ] && echo --push || echo --load)" --metadata-file "$answer" . >&2
      digest=$(sed -n 's/.*"containerimage.digest": "\([^"]*\)".*/\1/p' "$answer") ;;
    podman)
      podman build --layers --format docker "${options[@]}" . >&2
      digest=$(podman image inspect --format '{{.Digest}}' "$image") ;;
    buildah)
      buildah bud --layers --format docker "${options[@]}" . >&2
      digest=$(buildah inspect --type image --format '{{.FromImageDigest}}' "$image") ;;
  esac
  if [ -n "${PUSH:-}" ] && [ "$BUILDER" != docker ]; then
    "$BUILDER" push --digestfile "$answer" "$image" >&2
    digest=$(<"$answer")
  fi
  echo "${image%:*}@$digest"
done
