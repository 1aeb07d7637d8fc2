#!/bin/sh
# Run by PostgreSQL's image when its volume is new: one role owns the schema and migrates, another runs.
set -eu

psql --set=ON_ERROR_STOP=1 --username="${POSTGRES_USER:-postgres}" --dbname=postgres \
    --set=owner="$(cat /run/secrets/owner_password)" --set=run="$(cat /run/secrets/run_password)" <<'SQL'
CREATE ROLE jitaccess_owner LOGIN PASSWORD :'owner';
CREATE ROLE jitaccess_run LOGIN PASSWORD :'run';
CREATE DATABASE jitaccess OWNER jitaccess_owner;
REVOKE ALL ON DATABASE jitaccess FROM PUBLIC;
GRANT CONNECT, TEMPORARY ON DATABASE jitaccess TO jitaccess_run;
SQL
