#!/bin/bash
# gpu_http.sh OUT - the system tests of serving, evaluation and law 2 with PROA_TEST_DEVICE on the machine's GPU (default: cuda), in a folder that
# gpu_pack.sh made: pytest and what else the tests import are in site/, so that a Python of a version that the pack is for is all that the machine
# must have. The suites run side by side; each one's output is OUT/http_NAME.log, its report OUT/http_NAME.xml. Ends with 1 where a test fails.
#
# SUITES="openai http": those alone. PYTHON: the interpreter (default: python3). HTTP_SECONDS: how long a suite may take (default: 300).
set -uo pipefail
out=$1 here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3} site="" wrapped=$here/wrapped
# What does not run here: clusters, labs, images and deployments need programs and networks of their own; test_precompile.py asks for tiles of the
# GPU in host memory, gpu_precompile.sh does the same with those of this one.
all="http openai determinism eval golden stand_in bench_load health tls"
bad=0
mkdir -p "$out"
out=$(cd "$out" && pwd)

# What the tests import, in the folder of this version of Python beside what all share.
find_site() {
    local tag
    tag=$("$python" -c 'import sys; print("cp%d%d" % sys.version_info[:2])') || return 1
    [ -d "$here/site/$tag" ] || {
        echo "the pack has nothing for $("$python" --version): site/ has $(cd "$here/site" 2>/dev/null && echo cp*); pack with PYTHONS=..."
        return 1
    }
    site=$here/site/$tag:$here/site/any
}

# Python would take libraries that it needs itself from lib/ too, which may be older than its own: the programs alone are told of that folder.
wrap() {
    local name libraries
    libraries=$(echo "${LD_LIBRARY_PATH:-}" | tr : '\n' | grep -vxF "$here/lib" | paste -sd:)
    for name in proa tests/fake/fake_server; do
        mkdir -p "$(dirname "$wrapped/$name")"
        printf '#!/bin/sh\nLD_LIBRARY_PATH=%s exec %s "$@"\n' "$here/lib${libraries:+:$libraries}" "$here/bin/${name##*/}" >"$wrapped/$name"
        chmod +x "$wrapped/$name"
    done
    export LD_LIBRARY_PATH=$libraries
    [ -n "$libraries" ] || unset LD_LIBRARY_PATH
}

# -S: what else the machine's Python has installed, plugins of another pytest among it, is not looked at.
suite() {
    PYTHONPATH=$site PYTHONDONTWRITEBYTECODE=1 PROA_TEST_BUILD=${PROA_TEST_BUILD:-$wrapped} PROA_TEST_DATA=${PROA_TEST_DATA:-$here} \
        PROA_TEST_DEVICE=${PROA_TEST_DEVICE:-cuda} timeout -k 20 "${HTTP_SECONDS:-300}" "$python" -S -m pytest -v --long --durations=5 \
        -o faulthandler_timeout=90 --basetemp="$out/tmp_$1" --junitxml="$out/http_$1.xml" "$here/tests/system/test_$1.py" >"$out/http_$1.log" 2>&1
}

if ! find_site; then
    echo "FAILED http: no Python to run the tests with"
    exit 1
fi
wrap
declare -A names
trap 'kill $(jobs -p) 2>/dev/null' EXIT
trap 'exit 1' INT TERM
for name in ${SUITES:-$all}; do
    suite "$name" &
    names[$!]=$name
done
# As they end. One that a timeout ends has written what it was at; the logs of its servers stay in OUT/tmp_NAME, as those of any that fails.
while [ ${#names[@]} -gt 0 ]; do
    wait -n -p ended
    status=$?
    name=${names[$ended]} log=$out/http_${names[$ended]}.log
    unset "names[$ended]"
    if [ $status -eq 0 ]; then
        echo "passed http $name: $(tail -1 "$log")"
        rm -rf "$out/tmp_$name"
    elif [ $status -ge 124 ]; then
        echo "FAILED http $name: not over after ${HTTP_SECONDS:-300} s, or killed, at: $(grep '::' "$log" | tail -1)"
        bad=1
    else
        echo "FAILED http $name: $(tail -1 "$log")"
        bad=1
    fi
    grep -E "^(FAILED|ERROR|SKIPPED) " "$log"
done
exit $bad
