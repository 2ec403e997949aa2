#!/usr/bin/env bash
# The measurements of README, "Performance", one line each.
#   benchmark.sh [solve] [linear] [block] [lowrank] [depth] [70b]     default: all but 70b, which wants 20 GiB
# RANKS (2) and OMP_NUM_THREADS (the cores over the ranks) choose the job, MPRESS another program than
# build/mpress; QUICK=1 takes small shapes, to see that all of it runs: its figures mean nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
. mpi-runs/environment.sh

mpress=${MPRESS:-build/mpress}
ranks=${RANKS:-2}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(($(nproc) / ranks > 0 ? $(nproc) / ranks : 1))}
shapes=mpi-runs/shapes
large=$shapes/llama-2-7b.json huge=$shapes/llama-2-70b.json
solve=(--d-in 4096 --d-out 4096) tokens=(--tokens 8192 --seqlen 2048) few=(--tokens 512 --seqlen 512)
wide=(4096 11008 2048) once=()
if [ "${QUICK:-0}" = 1 ]; then
    large=$shapes/tinyllama-1.1b.json huge=$shapes/tinyllama-1.1b.json
    solve=(--d-in 1024 --d-out 1024 --repeat 1) tokens=(--tokens 256 --seqlen 128 --repeat 1)
    few=(--tokens 128 --seqlen 64 --repeat 1)
    wide=(256 640 192) once=(--repeat 1)
fi
if [ ! -x "$mpress" ]; then
    echo "$mpress is not there: build it first (README, \"Building\"), or set MPRESS" >&2
    exit 64
fi
scratch=$(mktemp -d "${TMPDIR:-/tmp}/mpress-benchmark.XXXXXX")
trap 'rm -rf "$scratch"' EXIT

# Runs mpress on all ranks; its log is shown where it fails.
run() {
    mpirun -n "$ranks" "$mpress" "$@" 2>"$scratch/log" || {
        cat "$scratch/log" >&2
        return 1
    }
}

# The JSON of a bench on standard input as one line: seconds, phases (seconds and share of the GEMM
# rate), peak memory.
line() {
    awk -v label="$1" '
    function number(text, key) {
        match(text, "\"" key "\":[-+0-9.e]+")
        return substr(text, RSTART + length(key) + 3, RLENGTH - length(key) - 3) + 0
    }
    {
        printf "%-44s %8.3f s ", label, number($0, "seconds")
        rest = $0
        while (match(rest, /"[a-z]+":\{"seconds":[^}]*\}/)) {
            phase = substr(rest, RSTART, RLENGTH)
            rest = substr(rest, RSTART + RLENGTH)
            name = substr(phase, 2, index(phase, "\":") - 2)
            printf " %s %.3f s", name, number(phase, "seconds")
            if (number(phase, "share") > 0) printf " %.0f%%", 100 * number(phase, "share")
            printf ","
        }
        printf " GEMM %.0f Gflop/s, peak %.2f GiB\n", number($0, "gemm_gflops"),
            number($0, "peak_bytes") / 1024 ^ 3
    }'
}

bench_solve() {
    run bench solve "${solve[@]}" --pattern 4:8 --json | line "solve ${solve[1]} x ${solve[3]}, 4:8"
    run bench solve "${solve[@]}" --method gptq --bits 4 --json |
        line "the same by gptq, 4 bits"
}

# One block in one order.
bench_block() {
    run bench block --config "$large" "${tokens[@]}" --pattern 4:8 --propagate "$1" --json |
        line "block of $(basename "$large" .json), 4:8, $1 order"
}

# Factors of one linear map, and the slow road to them.
bench_lowrank() {
    run bench lowrank --d-in "${wide[1]}" --d-out "${wide[0]}" "${once[@]}" --json |
        line "asvd+ ${wide[1]} to ${wide[0]}, ratio 0.8"
    run bench lowrank --d-in "${wide[0]}" --d-out "${wide[0]}" "${once[@]}" --json |
        line "asvd+ ${wide[0]} to ${wide[0]}, ratio 0.8"
    run bench lowrank --d-in "${wide[2]}" --d-out "${wide[2]}" "${once[@]}" --json |
        line "asvd+ ${wide[2]} to ${wide[2]}, ratio 0.8"
    run bench lowrank --d-in "${wide[2]}" --d-out "${wide[2]}" --svd cholesky --repeat 1 --json |
        line "the same by Cholesky and SVD"
}

bench_70b() {
    run bench block --config "$huge" "${few[@]}" --pattern 2:4 --json |
        line "block of $(basename "$huge" .json), 2:4, block order"
    run bench lowrank --d-in $((wide[0] * 7)) --d-out $((wide[0] * 2)) --repeat 1 --json |
        line "asvd+ $((wide[0] * 7)) to $((wide[0] * 2)), ratio 0.8"
}

# Peak memory of whole runs on models that differ in the number of blocks alone.
peak() {
    run synth "$shapes/tinyllama-1.1b.json" "$scratch/model" --blocks "$1"
    run compress "$scratch/model" "$scratch/out" --sparsity 2:4 --no-export \
        --calib tests/data/golden/calib.safetensors --nsamples 8
    sed -n 's/^ *"peak_bytes": \([0-9]*\).*/\1/p' "$scratch/out/report.json"
    rm -rf "$scratch/model" "$scratch/out"
}

bench_depth() {
    local few_blocks=4 many_blocks=16 few_bytes many_bytes

    if [ "${QUICK:-0}" = 1 ]; then few_blocks=1 many_blocks=2; fi
    few_bytes=$(peak $few_blocks)
    many_bytes=$(peak $many_blocks)
    awk -v a=$few_blocks -v b=$many_blocks -v x="$few_bytes" -v y="$many_bytes" 'BEGIN {
        printf "%-44s peak %.3f and %.3f GiB, %+.1f%%\n",
            "runs on " a " and " b " blocks of tinyllama-1.1b", x / 1024 ^ 3, y / 1024 ^ 3, 100 * (y / x - 1)
    }'
}

if [ $# -eq 0 ]; then
    set -- solve linear block lowrank depth
fi
echo "$ranks ranks x $OMP_NUM_THREADS threads; shares are of the GEMM rate measured in the same run"
for name in "$@"; do
    case $name in
    solve) bench_solve ;;
    linear | block) bench_block "$name" ;;
    lowrank) bench_lowrank ;;
    depth) bench_depth ;;
    70b) bench_70b ;;
    *)
        echo "$name: expected solve, linear, block, lowrank, depth or 70b" >&2
        exit 64
        ;;
    esac
done
