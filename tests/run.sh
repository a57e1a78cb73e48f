#!/bin/sh
# All tests: four pytest processes side by side, for most of them wait for sound, clocks or processes. One output after the other.
# COVERAGE=1 measures coverage, which takes a third longer.
set -u
python=$1
tests=tests/integration
waiting="tests/crash $tests/test_bench.py $tests/test_bench_media.py $tests/test_calls_over_loopback.py
    $tests/test_disclosures_over_loopback.py $tests/test_media_over_loopback.py $tests/test_recording_crashes.py
    $tests/test_schemathesis.py $tests/test_notary.py"
outputs=$(mktemp -d)
rm -f .coverage .coverage.*

some() {
    name=$1
    shift
    # shellcheck disable=SC2086
    COVERAGE_FILE=.coverage.$name nice -n "${niceness:-0}" "$python" -m pytest --durations=15 ${COVERAGE:+--cov --cov-report=} "$@"
}
# shellcheck disable=SC2086
ignored=$(printf -- '--ignore=%s ' $waiting)
some calls tests/acceptance >"$outputs/calls" 2>&1 &
calls=$!
# shellcheck disable=SC2086
some waiting $waiting >"$outputs/waiting" 2>&1 &
waiters=$!
niceness=5 some units tests/unit tests/torture >"$outputs/units" 2>&1 &  # computes: sound goes first
units=$!
trap 'kill $calls $waiters $units 2>/dev/null; rm -rf "$outputs"' EXIT
failed=0
# shellcheck disable=SC2086
some rest $ignored $tests tests/docker || failed=1
wait "$units" || failed=1
wait "$calls" || failed=1
wait "$waiters" || failed=1
trap - EXIT
cat "$outputs/units" "$outputs/calls" "$outputs/waiting"
rm -rf "$outputs"
if [ -n "${COVERAGE:-}" ]; then
    "$python" -m coverage combine --quiet && "$python" -m coverage report
fi
exit $failed
