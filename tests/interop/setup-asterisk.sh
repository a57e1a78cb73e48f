#!/bin/sh
# Unpacks a real Asterisk 22 into a folder of its own, for the tests in tests/interop: setup-asterisk.sh [DIR]
#
# Debian 12 has no Asterisk, Debian's development suite has. Its packages want a newer C library than Debian 12 has, so nothing of
# it is installed here: a private apt, which believes that nothing is installed, downloads Asterisk with everything down to the
# C library, and all of it is unpacked into DIR, where it runs by chroot. The machine's own packages stay as they are;
# `rm -rf DIR` undoes everything. About 100 MB are downloaded, 300 MB unpacked.
set -eu

dir=${1:-.interop/asterisk}
suite=sid
asterisk_major=22

say() { echo "setup-asterisk: $*"; }
fail() {
    echo "setup-asterisk: $*" >&2
    exit 1
}

# The recipe is part of the stamp: whoever changes it gets a new root, everybody else is done at once.
stamp=$dir/.installed
recipe=$(cksum <"$0")
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$recipe" ]; then
    say "$dir is ready"
    exit 0
fi

[ "$(id -u)" = 0 ] || fail "chroot and device nodes need root; run it as root: sudo make interop"
for tool in apt-get dpkg-deb mknod chroot; do
    command -v "$tool" >/dev/null || fail "$tool is missing; this set-up is made for Debian 12 and needs apt, dpkg and coreutils"
done

# The mirror is the machine's own, so that a site with a mirror or a proxy of its own is served by that. It is the archive that holds
# the machine's base release; security and update suites hold parts only.
# shellcheck source=/dev/null
. /etc/os-release
release=${VERSION_CODENAME:?setup-asterisk: /etc/os-release names no VERSION_CODENAME; this set-up is made for Debian 12}
# shellcheck disable=SC2016 # apt fills these in
mirror=$(apt-get indextargets --format '$(CREATED_BY) $(RELEASE) $(REPO_URI)' |
    awk -v release="$release" '$1 == "Packages" && $2 == release && $3 ~ /debian/ { print $3; exit }')
[ -n "$mirror" ] || fail "no archive of Debian $release in the apt sources; add one to /etc/apt/sources.list"
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[ -f "$keyring" ] || fail "$keyring is missing; install it: apt-get install debian-archive-keyring"

mkdir -p "$(dirname "$dir")"
new=$(cd "$(dirname "$dir")" && pwd)/$(basename "$dir").new
rm -rf "$new"
root=$new/root
apt=$new/apt
mkdir -p "$root/usr" "$apt/etc" "$apt/lists/partial" "$apt/cache/archives/partial"
: >"$apt/status"
echo "deb [signed-by=$keyring] $mirror $suite main" >"$apt/etc/sources.list"

# Dir::State::status is the empty list of what is installed: everything is "new". Valid-Until is let go because a mirror that was
# frozen or is behind serves as well. The sandbox user _apt may not enter below /root.
private_apt() {
    DEBIAN_FRONTEND=noninteractive apt-get -qq \
        -o Dir::State="$apt" -o Dir::State::lists="$apt/lists" -o Dir::State::status="$apt/status" \
        -o Dir::Cache="$apt/cache" \
        -o Dir::Etc::sourcelist="$apt/etc/sources.list" -o Dir::Etc::sourceparts=/dev/null \
        -o Dir::Etc::preferences=/dev/null -o Dir::Etc::preferencesparts=/dev/null \
        -o Acquire::Check-Valid-Until=false -o Acquire::Languages=none -o Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false \
        -o Acquire::Retries=3 -o APT::Sandbox::User=root -o APT::Install-Recommends=false -o Debug::NoLocking=true "$@"
}

say "reading the list of packages of $suite"
private_apt update || fail "the list could not be read; is $mirror reachable? Behind a proxy: export http_proxy"
say "downloading asterisk and all that it needs"
private_apt --yes --download-only install asterisk >"$new/apt.log" 2>&1 || {
    tail -n 20 "$new/apt.log" >&2
    fail "the download failed, see above; the mirror may be in the middle of an update: try again"
}

# Debian merged /bin, /lib and /sbin into /usr. The links must be there before the first package is unpacked beside them.
for name in bin sbin lib lib64; do
    mkdir -p "$root/usr/$name"
    ln -s "usr/$name" "$root/$name"
done
say "unpacking $(find "$apt/cache/archives" -name '*.deb' | wc -l) packages"
find "$apt/cache/archives" -name '*.deb' -print | while read -r package; do
    dpkg-deb --extract "$package" "$root" || fail "$package could not be unpacked; is the disk full?"
done

# What a running Debian would have made: run-time folders, two devices, the language that Asterisk looks for by default.
mkdir -p "$root/run/asterisk" "$root/var/log/asterisk" "$root/var/spool/asterisk" "$root/var/lib/asterisk" "$root/dev" "$root/tmp" \
    "$root/etc/ast"
chmod 1777 "$root/tmp"
for device in "null 1 3" "zero 1 5" "random 1 8" "urandom 1 9"; do
    # shellcheck disable=SC2086 # name, major, minor
    set -- $device
    [ -e "$root/dev/$1" ] || mknod -m 666 "$root/dev/$1" c "$2" "$3" ||
        fail "no device node can be made below $dir; in a container give it CAP_MKNOD, on a file system mounted nodev choose another folder"
done
sounds=$root/usr/share/asterisk/sounds
if [ -d "$sounds/en_US_f_Allison" ] && [ ! -e "$sounds/en" ]; then
    ln -s en_US_f_Allison "$sounds/en"
fi

version=$(chroot "$root" /usr/sbin/asterisk -V) || fail "the unpacked Asterisk does not run in $root; see the message above"
case $version in
"Asterisk $asterisk_major."*) ;;
*) fail "Debian $suite holds $version now; the tests are written for Asterisk $asterisk_major: raise asterisk_major here and run them" ;;
esac
rm -rf "$apt" "$new/apt.log"
echo "$recipe" >"$new/.installed"
rm -rf "$dir"
mv "$new" "$dir"
say "$version is ready in $dir/root ($(du -sm "$dir" | cut -f1) MB)"
