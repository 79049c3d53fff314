#!/usr/bin/env bash
# [redis] [postgres] [kafka] [versitygw]: build images of the third parties' names, for a machine that reaches no image
# registry: from Debian packages, Maven jars and a Go module, on python:3.11-slim, the one base that is there anyway.
# Prints each name. Where a registry is reached, nothing of this is needed.
#   BUILD     command that takes TAG CONTEXT and builds (default: the first of docker, podman and buildah)
#   LOAD      command that takes TAG and brings the image to the nodes (default: none)
#   VERSITYGW  a binary that is there already, instead of building it
# Needs Maven and Java 17 for kafka, Go for versitygw.
set -Eeuo pipefail
cd "$(dirname "$0")"

build() { # TAG CONTEXT
  if [ -n "${BUILD:-}" ]; then $BUILD "$1" "$2"
  elif docker info >/dev/null 2>&1; then docker buildx build --load --tag "$1" "$2"
  elif command -v podman >/dev/null; then podman build --tag "$1" "$2"
  else buildah bud --layers --tag "$1" "$2"; fi >&2
}

if [ $# = 0 ]; then set -- redis postgres kafka versitygw; fi
for name; do
  case $name in
    redis) tag=docker.io/library/redis:7.4 ;;
    postgres) tag=docker.io/library/postgres:17 ;;
    kafka)
      tag=docker.io/apache/kafka:4.1.0
      [ -d kafka/libs ] || mvn --quiet --batch-mode --file kafka/pom.xml dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$PWD/kafka/libs" >&2 ;;
    versitygw)
      tag=docker.io/versity/versitygw:v1.8.0
      if [ -n "${VERSITYGW:-}" ]; then cp "$VERSITYGW" versitygw/versitygw
      elif [ ! -x versitygw/versitygw ]; then
        (cd versitygw && CGO_ENABLED=0 GOFLAGS=-mod=mod go build -trimpath -ldflags='-s -w' -o versitygw github.com/versity/versitygw/cmd/versitygw)
      fi ;;
    *) echo "no image $name here; write redis, postgres, kafka or versitygw" >&2; exit 2 ;;
  esac
  build "$tag" "$name"
  if [ -n "${LOAD:-}" ]; then $LOAD "$tag"; else echo "$tag"; fi
done
