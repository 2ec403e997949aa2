#!/usr/bin/env bash
# From a clone to a compressed model: installs packages, builds, and prunes the model in tests/data to
# 2:4 with SparseGPT on 2 ranks.
#   quickstart.sh [OUT]       results go to OUT (default: build/quickstart)
set -euo pipefail
cd "$(dirname "$0")/.."

bash mpi-runs/setup.sh
. mpi-runs/environment.sh
cmake -S . -B build -DMPRESS_TESTS=OFF >build.log 2>&1 || { cat build.log; exit 1; }
cmake --build build -j "$(nproc)" --target mpress >build.log 2>&1 || { cat build.log; exit 1; }
rm -f build.log

model=tests/data/wikillama-5m
out=${1:-build/quickstart}
start=$(date +%s)
OMP_NUM_THREADS=1 mpirun -n 2 build/mpress compress "$model" "$out" --method sparsegpt \
    --sparsity 2:4 --calib "$model/sample-calib.jsonl" --nsamples 32 --seqlen 256 \
    --eval "$model/sample-eval.jsonl" --overwrite

echo
echo "size      $(du -sh "$model/model.safetensors" | cut -f1) in, $(du -sh "$out/hf/model.safetensors" | cut -f1) out (zeros in a dense file take no less room)"
echo "time      $(($(date +%s) - start)) s"
echo "results   $out/hf           Hugging Face directory, loads where $model did"
echo "          $out/model.h5     checkpoint (parallel HDF5), one file per block in $out/blocks"
echo "          $out/report.json  perplexity before and after, error of every linear map, time per phase"
