#!/bin/sh
# All tests, with coverage: those that hold real calls and wait for them beside those that compute. Both outputs in full, one after the other.
set -u
python=$1
calls=$(mktemp)
rm -f .coverage .coverage.*
COVERAGE_FILE=.coverage.calls "$python" -m pytest --cov --cov-report= tests/acceptance tests/crash >"$calls" 2>&1 &
beside=$!
trap 'kill $beside 2>/dev/null; rm -f "$calls"' EXIT
failed=0
COVERAGE_FILE=.coverage.rest "$python" -m pytest --cov --cov-report= tests/unit tests/torture tests/integration tests/docker || failed=1
wait "$beside" || failed=1
trap - EXIT
cat "$calls"
rm -f "$calls"
"$python" -m coverage combine --quiet && "$python" -m coverage report
exit $failed
