#!/bin/sh
# Makes the secrets of docker/compose.yaml, once; what is there is left as it is. Usage: sh docker/secrets.sh [folder]
set -eu
umask 077
folder=${1:-$(dirname "$0")/secrets}
mkdir -p "$folder"

random() {
    head -c 48 /dev/urandom | base64 | tr -d '/+=\n' | cut -c 1-48
}

put() {
    # The folder keeps others out; inside a container its user, who is not you, has to read the file.
    if [ ! -e "$folder/$1" ]; then
        printf '%s\n' "$2" >"$folder/$1"
        chmod 0444 "$folder/$1"
    fi
}

for name in postgres_password owner_password run_password redis_password secret_key metrics_token; do
    put "$name" "$(random)"
done
put keys "k1:$(head -c 32 /dev/urandom | base64 | tr -d '\n')"
put database_owner_url "postgresql://jitaccess_owner:$(cat "$folder/owner_password")@postgres:5432/jitaccess"
put database_url "postgresql://jitaccess_run:$(cat "$folder/run_password")@postgres:5432/jitaccess"
put redis_url "redis://:$(cat "$folder/redis_password")@redis:6379/0"
echo "Secrets are in $folder. Keep a copy of it apart from the database's backups."
