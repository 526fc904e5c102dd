#!/bin/sh
# Runs a command with the database password from a file, so that no address contains it.
set -eu
if [ -n "${PGPASSWORD_FILE:-}" ]; then
    PGPASSWORD=$(cat "$PGPASSWORD_FILE")
    export PGPASSWORD # libpq reads it
fi
exec "$@"
