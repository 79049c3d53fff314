#!/usr/bin/env bash
# What upstream's entrypoint does and the chart uses: an empty PGDATA becomes a database with the given user, password
# and name; then /docker-entrypoint-initdb.d/*.sh and *.sql run once, in order; then the command starts.
set -Eeuo pipefail

from_file() { # NAME [DEFAULT]: NAME, or what is in the file that NAME_FILE names
  local file="$1_FILE"
  if [ -n "${!1:-}" ] && [ -n "${!file:-}" ]; then echo "both $1 and $file are set" >&2; exit 1; fi
  if [ -n "${!file:-}" ]; then printf '%s' "$(<"${!file}")"; else printf '%s' "${!1:-${2:-}}"; fi
}

run_sql() { psql -v ON_ERROR_STOP=1 --no-psqlrc --no-password --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" "$@"; }

create_database() {
  if [ -z "$password" ]; then echo "an empty database needs POSTGRES_PASSWORD or POSTGRES_PASSWORD_FILE" >&2; exit 1; fi
  eval "initdb --username=\"\$POSTGRES_USER\" --pwfile=<(printf '%s\n' \"\$password\") ${POSTGRES_INITDB_ARGS:-}"
  printf '\nhost all all all scram-sha-256\n' >>"$PGDATA/pg_hba.conf"
  pg_ctl -D "$PGDATA" -w -o "-c listen_addresses=''" start
  export PGPASSWORD=$password PGHOST=
  if [ "$POSTGRES_DB" != postgres ]; then
    POSTGRES_DB=postgres run_sql -v db="$POSTGRES_DB" <<<'CREATE DATABASE :"db";'
  fi
  local file
  for file in /docker-entrypoint-initdb.d/*; do
    case $file in
      *.sh) if [ -x "$file" ]; then "$file"; else . "$file"; fi ;;
      *.sql) run_sql -f "$file" ;;
    esac
  done
  pg_ctl -D "$PGDATA" -m fast -w stop
  unset PGPASSWORD PGHOST
}

if [ "${1:0:1}" = - ]; then set -- postgres "$@"; fi
if [ "$1" = postgres ]; then
  mkdir -p "$PGDATA" && chmod 00700 "$PGDATA"
  if [ ! -s "$PGDATA/PG_VERSION" ]; then
    password=$(from_file POSTGRES_PASSWORD)
    POSTGRES_USER=$(from_file POSTGRES_USER postgres)
    POSTGRES_DB=$(from_file POSTGRES_DB "$POSTGRES_USER")
    export POSTGRES_USER POSTGRES_DB
    create_database
  fi
fi
exec "$@"
