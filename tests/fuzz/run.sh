#!/bin/sh
# Fuzzes SIP, then media, for SECONDS in all (60 unless told): run.sh SECONDS. PYTHON names the interpreter that has atheris.
# Ends with 1 and leaves the input in FINDINGS (fuzz-findings/ unless told) when something is found.
set -eu
seconds=${1:-60}
python=${PYTHON:-python3}
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
findings=${FINDINGS:-fuzz-findings}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM
mkdir -p "$findings" "$work/sip" "$work/media"

fuzz() { # target, seconds, corpora
    target=$1 limit=$2
    shift 2
    echo "fuzzing $target for $limit s"
    # beyond the time limit of the fuzzer itself, one of the shell's: it ends whatever happens
    timeout -k 10 $((limit + 60)) "$python" "$here/fuzz_$target.py" "$@" "-max_total_time=$limit" -timeout=10 \
        -rss_limit_mb=2048 -max_len=8192 -len_control=20 "-dict=$here/$target.dict" \
        "-artifact_prefix=$findings/$target-" -print_final_stats=1 -verbosity=1
}

fuzz sip $((seconds * 2 / 3)) "$work/sip" "$here/corpus/sip" "$here/../torture/rfc4475" "$here/../torture/rfc5118"
fuzz media $((seconds - seconds * 2 / 3)) "$work/media" "$here/corpus/media"
