#!/bin/sh
# Everything that is to be known of dau on a machine with a GPU, in at most ten minutes; needs no compiler and no network.
#   scripts/measure_gpu.sh OUT [DAU]
# OUT is a new folder; each part writes OUT/<part>.txt (or .json) and OUT/<part>.err as it goes, and a line of OUT/parts.tsv: name, exit code
# (124: it ran into its limit), seconds. DAU is the program [target/release/dau]. From the environment:
#   ADAPTER   as dau's --adapter                            [the best]
#   WIDTH     channels of the network's first stage         [64]
#   BATCHES   images a step, sizes with spaces              [128 512]
#   STARTS    how many starts in a row are timed            [10]
#   TOTAL     seconds for all; what is left then is skipped [600]
#   DATA      CIFAR-10 as DIR/{train,test}/<class>/*: two epochs of it, then full-scale cases as far as the time goes [left out]
#   PYTHON    a Python that has PyTorch                     [python3; left out without PyTorch]
#   PARTS     which parts, by what their names begin with   [all: devices start step torch selftest kernels tune demo cifar full-scale]
set -eu
[ $# -ge 1 ] || {
    sed -n '2,14s/^# \{0,1\}//p' "$0" >&2
    exit 2
}
here=$(cd "$(dirname "$0")/.." && pwd)
dau=$(realpath "${2:-target/release/dau}")
[ -x "$dau" ] || {
    echo "scripts/measure_gpu.sh: $dau is no program: build it with cargo build --release, or name another" >&2
    exit 2
}
[ ! -e "$1" ] || {
    echo "scripts/measure_gpu.sh: $1 is there already: name a new folder" >&2
    exit 2
}
mkdir -p "$1"
out=$(cd "$1" && pwd)
width=${WIDTH:-64} batches=${BATCHES:-128 512} starts=${STARTS:-10} total=${TOTAL:-600} python=${PYTHON:-python3}
# The first start is to find nothing compiled: driver and program keep what they compile here.
export MESA_SHADER_CACHE_DIR="$out/cache" __GL_SHADER_DISK_CACHE_PATH="$out/cache" XDG_CACHE_HOME="$out/cache"
mkdir "$out/cache"
: >"$out/parts.tsv"
cd "$out"
began=$(date +%s)
first=${batches%% *}

# part NAME SECONDS FILE COMMAND...: runs the command under its limit and that of all, its stdout in FILE.
part() {
    name=$1 limit=$2 file=$3
    shift 3
    for wanted in ${PARTS:-$name}; do
        case $name in "$wanted"*) break ;; *) wanted= ;; esac
    done
    [ -n "$wanted" ] || return 0
    left=$((total - $(date +%s) + began))
    [ "$left" -gt 5 ] || {
        printf '%s\tskipped\t0\n' "$name" >>parts.tsv
        return 0
    }
    [ "$limit" -le "$left" ] || limit=$left
    start=$(date +%s.%N) code=0
    timeout -k 5 "$limit" "$@" >"$file" 2>"$name.err" </dev/null || code=$?
    printf '%s\t%s\t%.1f\n' "$name" "$code" "$(echo "$(date +%s.%N) $start" | awk '{print $1 - $2}')" >>parts.tsv
    tail -n 1 parts.tsv >&2
}
set -- "$dau"
[ -z "${ADAPTER:-}" ] || set -- "$dau" --adapter "$ADAPTER"

part devices 30 devices.txt "$dau" devices
precisions=f32
! grep -qs matrix devices.txt || precisions="f32 mixed split"
i=1
while [ "$i" -le "$starts" ]; do
    part "start-$i" 60 "start-$i.json" "$@" --json bench --step --width "$width" --batch "$first"
    i=$((i + 1))
done
for precision in $precisions; do
    for batch in $batches; do
        part "step-$precision-$batch" 60 "step-$precision-$batch.json" "$@" --json bench --step --width "$width" --batch "$batch" --precision "$precision"
    done
done
if "$python" -c 'import torch' 2>/dev/null; then
    for batch in $batches; do
        part "torch-$batch" 90 "torch-$batch.jsonl" "$python" "$here/benches/peers/torch_step.py" --width "$width" --batch "$batch"
    done
fi
part selftest 60 selftest.txt "$@" selftest
for precision in $precisions; do
    part "kernels-$precision" 60 "kernels-$precision.json" "$@" --json bench --width "$width" --batch "$first" --precision "$precision"
done
for precision in $precisions; do
    part "tune-$precision" 90 "tune-$precision.json" "$@" --json tune --width "$width" --batch "$first" --precision "$precision" --out "tuned-$precision.json"
done
part demo 60 demo.txt "$@" demo --out demo
if [ -n "${DATA:-}" ]; then
    part cifar 120 cifar.json "$@" --json run --dataset CIFAR-10 --data "$DATA" --width "$width" --epochs 2 --batch "$first" --out cifar
    if "$python" -c 'import torch, PIL' 2>/dev/null; then
        part full-scale "$total" full-scale.txt "$python" "$here/benches/full_scale/evaluate.py" --dau "$dau" --data "$DATA" --out full-scale \
            --deadline $((total - $(date +%s) + began))
    fi
fi
rm -rf cache demo cifar
echo "$out: $(wc -l <parts.tsv) parts, $(awk -F '\t' '$2 != 0' parts.tsv | wc -l) without an end of their own, $(($(date +%s) - began)) s" >&2
