#!/bin/bash
# Runs every check of this folder, then the tests that show that each of them can fail.
cd "$(dirname "$0")/../.."
failed=0
for check in tools/check/check_*.py; do
    if python3 -B "$check"; then echo "ok    $check"; else echo "FAIL  $check"; failed=1; fi
done
python3 -B tests/tools/test_checks.py || failed=1
exit $failed
