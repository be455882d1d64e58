#!/bin/bash
# gpu_compilers.sh PID [LOG] - that nothing has compiled GPU code at run time: ends with 1 where process PID has one of CUDA's compilers among its
# libraries (/proc/PID/maps), or where, by the LOG of `strace -f -e trace=openat,execve`, it or a child has opened or started one. The driver's own
# compiler of PTX is such a library too, and is loaded when it is first needed. Where LOG has no driver being opened, or the process none, it is no
# evidence, and that is an error as well.
set -uo pipefail
pid=$1 log=${2:-}
compilers='lib(nvrtc|nvptxcompiler|nvidia-ptxjitcompiler|nvJitLink|(nvidia-)?nvvm)|/(ptxas|nvcc|cicc|fatbinary|nvlink)("|$)'
driver='libcuda\.so'
bad=0

if ! maps=$(grep -oE '/.*' "/proc/$pid/maps" | sort -u) || [ -z "$maps" ]; then
    echo "FAILED compilers: process $pid has no /proc/$pid/maps to read"
    exit 1
fi
mapped=$(grep -E "$compilers" <<<"$maps")
if [ -n "$mapped" ]; then
    echo "FAILED compilers: process $pid has mapped $(paste -sd' ' <<<"$mapped")"
    bad=1
elif ! grep -qE "$driver" <<<"$maps"; then
    echo "FAILED compilers: process $pid has not mapped libcuda.so: this shows nothing"
    bad=1
else
    echo "passed compilers: $(grep -cE '\.so' <<<"$maps") libraries mapped by process $pid, libcuda.so among them, none compiles"
fi
[ -n "$log" ] || exit $bad

# Calls that succeeded: a search for a file along a path has misses too.
calls=$(grep -E '(openat|execve)\(' "$log" | grep -vE '= -1 ')
opened=$(grep -E "$compilers" <<<"$calls")
if [ -n "$opened" ]; then
    echo "FAILED compilers: opened or started, by strace:"
    echo "$opened"
    bad=1
elif ! grep -qE "$driver" <<<"$calls"; then
    echo "FAILED compilers: strace's log has nobody open libcuda.so: this shows nothing"
    bad=1
else
    echo "passed compilers: $(wc -l <<<"$calls") files opened or started by strace's log, libcuda.so among them, none compiles"
fi
tried=$(grep -E '= -1 ' "$log" | grep -E "$compilers")
[ -z "$tried" ] || printf 'looked for and not found:\n%s\n' "$tried"
exit $bad
