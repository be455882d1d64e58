#!/bin/bash
# tidy.sh [FILE...] - clang-tidy over the C files of src/ (or these), with the flags of build/compile_commands.json.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || mapfile -t files < <(find src -name '*.c' | sort)
# Flags that gcc alone knows are no fault of the code. One line a finding: run clang-tidy -p build FILE for its path.
printf '%s\n' "${@:-${files[@]}}" |
    xargs -P "$(nproc)" -n 4 clang-tidy -p build --quiet --extra-arg=-Wno-unknown-warning-option 2>&1 |
    { grep -E ' (error|warning): ' || true; } | sed "s|$PWD/build/../||; s|^\.\./||" | sort -u
