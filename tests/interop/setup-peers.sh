#!/bin/sh
# Fetches SIPp, Kamailio and baresip from the machine's own Debian suite into a private folder; the system stays as it is.
# usage: setup-peers.sh [DIR]   (default .interop/peers). Prints the versions. A second run finds the stamp and does nothing.
set -eu
wanted="sip-tester kamailio kamailio-tls-modules baresip-core"
dir=${1:-.interop/peers}
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
stamp=$dir/.installed
key="$wanted $(cat /etc/debian_version 2>/dev/null || echo none)"
if [ "$(cat "$stamp" 2>/dev/null || true)" = "$key" ]; then
    cat "$dir/versions"
    exit 0
fi
command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || {
    echo "setup-peers.sh: needs a Debian with apt-get and dpkg-deb; this is none" >&2
    exit 1
}
rm -rf "$dir/root" "$dir/apt" "$stamp"
mkdir -p "$dir/root" "$dir/apt/lists/partial" "$dir/apt/archives/partial"

# apt with lists and cache of its own: what the system has installed is known to it (and is not fetched), nothing there is changed.
own_apt() {
    DEBIAN_FRONTEND=noninteractive apt-get -q \
        -o Dir::State::lists="$dir/apt/lists" -o Dir::Cache="$dir/apt" -o Dir::Cache::archives="$dir/apt/archives" \
        -o APT::Sandbox::User="" -o Debug::NoLocking=true -o Acquire::Retries=3 "$@"
}
log=$dir/apt.log
own_apt update >"$log" 2>&1 || true # a foreign source that fails is not ours to mind: the next step tells what is missing
# shellcheck disable=SC2086 # a list of names
own_apt install -y --no-install-recommends --download-only --reinstall $wanted >>"$log" 2>&1 || {
    tail -20 "$log" >&2
    echo "setup-peers.sh: apt-get cannot fetch: $wanted" >&2
    exit 1
}
for package in "$dir"/apt/archives/*.deb; do
    dpkg-deb -x "$package" "$dir/root"
done
libraries=
for folder in $(find "$dir/root" -name '*.so*' -exec dirname {} + | sort -u | grep -v /modules); do
    libraries=$libraries${libraries:+:}$folder
done
printf '%s\n' "$libraries" >"$dir/libraries"

# A program of the private root, run with its own libraries before those of the system.
mkdir -p "$dir/bin"
for program in usr/bin/sipp usr/sbin/kamailio usr/sbin/kamcmd usr/bin/baresip; do
    [ -x "$dir/root/$program" ] || {
        echo "setup-peers.sh: $program is missing from the packages" >&2
        exit 1
    }
    wrapper=$dir/bin/$(basename "$program")
    printf '#!/bin/sh\nLD_LIBRARY_PATH=%s exec %s "$@"\n' "'$libraries'" "'$dir/root/$program'" >"$wrapper"
    chmod 755 "$wrapper"
    if LD_LIBRARY_PATH=$libraries ldd "$dir/root/$program" | grep 'not found' >&2; then
        echo "setup-peers.sh: $program lacks these libraries" >&2
        exit 1
    fi
done
for package in sip-tester kamailio baresip-core; do
    file=$(echo "$dir/apt/archives/${package}_"*.deb)
    printf '%s %s\n' "$package" "$(dpkg-deb -f "$file" Version)"
done >"$dir/versions"
rm -rf "$dir/apt"
printf '%s' "$key" >"$stamp"
cat "$dir/versions"
