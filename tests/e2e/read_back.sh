#!/usr/bin/env bash
# read_back.sh MPRESS MPIEXEC PYTHON: one run of each kind, read back by read_back.py, and importance
# matrices of them by imatrix.py; runs of integers, exported in every format that holds them and read by
# read_integers.py.
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

golden=$here/../data/golden
"$mpiexec" --bind-to none -n 2 "$mpress" compress "$model" "$out/dense" --method wanda --propagate dense \
    --calib "$golden/calib.safetensors" --no-export
"$mpiexec" --bind-to none -n 2 "$mpress" compress "$model" "$out/weighted" --method wanda --no-export \
    --calib "$golden/calib.safetensors" --nsamples 3 --lengths 16,64,255 --drop-first --blocks 1:4
for run in nm dense weighted; do "$mpress" export "$out/$run" "$out/$run.gguf" --format imatrix; done
"$python" "$here/imatrix.py" "$out/nm" "$out/nm.gguf"
"$python" "$here/imatrix.py" "$out/dense" "$out/dense.gguf" "$golden/statistics.safetensors" 3
"$python" "$here/imatrix.py" "$out/weighted" "$out/weighted.gguf"

# integers NAME "OPTIONS" "FORMATS"
integers() {
    local dirs=()
    "$mpiexec" --bind-to none -n 2 "$mpress" compress "$model" "$out/$1" --no-export $2
    for format in $3; do
        "$mpiexec" --bind-to none -n 3 "$mpress" export "$out/$1" "$out/$1-$format" --format "$format"
        dirs+=("$out/$1-$format")
    done
    "$python" "$here/read_integers.py" "$out/$1" "$model" "${dirs[@]}"
}
integers w4 "--method rtn --bits 4 --group-size 64 --skip k_proj|up_proj" "compressed-tensors gptq awq dense"
integers w4a "--method rtn --bits 4 --group-size 32 --asym" "compressed-tensors gptq awq dense"
integers w3a "--method rtn --bits 3 --group-size channel --asym" "compressed-tensors gptq dense"
integers w8 "--method rtn --bits 8 --group-size channel --blocks 1:3" "compressed-tensors dense"
integers w5a "--method rtn --bits 5 --group-size 64 --asym --blocks 2:5" "compressed-tensors"
integers joint "--sparsity 2:4 --bits 4 --group-size 64 --calib $model/sample-calib.jsonl --nsamples 4 --seqlen 128" \
    "compressed-tensors gptq"
