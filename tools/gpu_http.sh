#!/bin/bash
# gpu_http.sh OUT - the system tests of serving, evaluation and law 2 with PROA_TEST_DEVICE on the machine's GPU (default: cuda), in a folder that
# gpu_pack.sh made: pytest and what else the tests import come from wheels/ into site/, so that Python 3.11 or later is all that the machine must
# have. The suites run side by side; each one's output is OUT/http_NAME.log, its report OUT/http_NAME.xml. Ends with 1 where a test fails.
#
# SUITES="openai http": those alone. PYTHON: the interpreter (default: python3). HTTP_SECONDS: how long a suite may take (default: 300).
set -uo pipefail
out=$1 here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3} site=$here/site wrapped=$here/wrapped
# What does not run here: clusters, labs, images and deployments need programs and networks of their own; test_precompile.py asks for tiles of the
# GPU in host memory, gpu_precompile.sh does the same with those of this one.
all="http openai determinism eval golden stand_in bench_load health tls"
bad=0
mkdir -p "$out"
out=$(cd "$out" && pwd)

# A wheel is a zip file; of compiled ones there is one for each version of Python that the pack was made for.
unpack() {
    local tag wheel
    tag=$("$python" -c 'import sys; sys.exit("Python 3.11 or later is needed, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else print("cp%d%d" % sys.version_info[:2])') ||
        return 1
    rm -rf "$site"
    for wheel in "$here"/wheels/*-none-any.whl "$here"/wheels/*-"$tag"-"$tag"-*.whl; do
        [ -f "$wheel" ] || {
            echo "wheels/ has none for $tag: $(cd "$here/wheels" 2>/dev/null && echo ./*-cp*.whl)"
            return 1
        }
        "$python" -m zipfile -e "$wheel" "$site" || return 1
    done
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
        PROA_TEST_DEVICE=${PROA_TEST_DEVICE:-cuda} timeout -k 20 "${HTTP_SECONDS:-300}" "$python" -S -m pytest --long --durations=5 \
        --basetemp="$out/tmp_$1" --junitxml="$out/http_$1.xml" "$here/tests/system/test_$1.py" >"$out/http_$1.log" 2>&1
}

if ! unpack; then
    echo "FAILED http: no Python to run the tests with"
    exit 1
fi
wrap
declare -A pids
for name in ${SUITES:-$all}; do
    suite "$name" &
    pids[$name]=$!
done
for name in ${SUITES:-$all}; do
    if wait "${pids[$name]}"; then
        echo "passed http $name: $(tail -1 "$out/http_$name.log")"
    else
        echo "FAILED http $name: $(tail -1 "$out/http_$name.log")"
        grep -E "^(FAILED|ERROR) " "$out/http_$name.log"
        bad=1
    fi
    grep "^SKIPPED " "$out/http_$name.log"
    rm -rf "$out/tmp_$name"
done
exit $bad
