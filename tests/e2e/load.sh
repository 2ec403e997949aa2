#!/usr/bin/env bash
# Many more ranks than cores, and than windows: 64 ranks over a model of 16 small blocks end with the bytes of
# a run on one.
#   load.sh MPRESS MPIEXEC
set -euo pipefail
mpress=$1 mpiexec=$2
data=$(cd "$(dirname "$0")/../data" && pwd)
. "$(dirname "$0")/../../mpi-runs/environment.sh"
export OMP_NUM_THREADS=1
export OMPI_MCA_mpi_yield_when_idle=1 # a rank that waits leaves its core to those it waits for
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

cat >"$scratch/config.json" <<'END'
{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 160,
 "num_hidden_layers": 16, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 4096,
 "rms_norm_eps": 1e-05, "hidden_act": "silu", "max_position_embeddings": 256, "torch_dtype": "bfloat16",
 "tie_word_embeddings": true}
END
"$mpress" synth "$scratch/config.json" "$scratch/model" --blocks 16

compress() { # ranks, OUT, more options
    local ranks=$1 out=$2
    shift 2
    "$mpiexec" --bind-to none -n "$ranks" "$mpress" compress "$scratch/model" "$out" --blocksize 32 \
        --calib "$data/golden/calib.safetensors" --nsamples 24 --seqlen 64 "$@" 2>"$scratch/log" ||
        { cat "$scratch/log"; exit 1; }
}

check() { # name, options
    local name=$1
    shift
    compress 1 "$scratch/one" "$@"
    compress 64 "$scratch/many" "$@"
    grep -q "64 ranks on 1 node" "$scratch/log"
    diff -r "$scratch/one/hf" "$scratch/many/hf"
    diff -r "$scratch/one/blocks" "$scratch/many/blocks"
    rm -rf "$scratch/one" "$scratch/many"
    echo "$name: 64 ranks, 24 windows, 16 blocks: the bytes of one rank"
}
check "sparsegpt 2:4" --sparsity 2:4
check "gptq" --method gptq --group-size 32 --propagate linear
