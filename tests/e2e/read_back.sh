#!/usr/bin/env bash
# read_back.sh MPRESS MPIEXEC PYTHON: one run of each kind, read back by read_back.py.
set -euo pipefail
mpress=$1 mpiexec=$2 python=$3
here=$(cd "$(dirname "$0")" && pwd)
model=$here/../data/wikillama-5m
[ -x "$python" ] || python=python3
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

"$mpiexec" --bind-to none -n 3 "$mpress" compress "$model" "$out/nm" --sparsity 2:4 \
    --calib "$model/sample-calib.jsonl" --nsamples 6 --seqlen 128
"$mpiexec" --bind-to none -n 2 "$mpress" compress "$model" "$out/part" --method wanda --sparsity 0.6 \
    --calib "$model/sample-calib.jsonl" --nsamples 3 --seqlen 64 --blocks 1:5 --skip 'k_proj|up_proj'
for run in nm part; do "$python" "$here/read_back.py" "$out/$run" "$model"; done
