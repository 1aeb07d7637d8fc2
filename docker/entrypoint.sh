#!/bin/sh
# The entry point of the image: `jitaccess` with what it is told; with JITACCESS_MIGRATE=true the database first.
set -eu

if [ "${JITACCESS_MIGRATE:-false}" = true ]; then
    jitaccess migrate
    # The role of the other processes may do nothing with new tables until it is granted that.
    if [ -n "${JITACCESS_RUNNING_ROLE:-}" ]; then
        jitaccess database grant "$JITACCESS_RUNNING_ROLE"
    fi
fi
# Without a command there was only the database to do.
if [ $# -eq 0 ]; then
    exit 0
fi
exec jitaccess "$@"
