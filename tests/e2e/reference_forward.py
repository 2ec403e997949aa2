#!/usr/bin/env python3
"""Tiny random models of every architecture row, with transformers' hidden states and logits.

    python3 tests/e2e/reference_forward.py OUT [--tokens 24] [--worker "mpirun -n 2 build/tests/worker"]

Writes OUT/<name>/: a checkpoint as transformers saves it, and reference.safetensors with input_ids
[2, T], hidden.<l> (before block l, and after the last block) and logits, computed in single precision
from the stored weights.  With --worker, runs the case forward_matches_a_reference on each of them.
tests/data/reference was made by this script with its defaults.

Pinned: torch 2.13.0, transformers 5.23.0, safetensors 0.8.0.  Other versions should agree to the
tolerance of the test (1e-4 of the largest value), but were not tried.
"""
import argparse
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

SIZES = dict(
    vocab_size=96,
    hidden_size=32,
    intermediate_size=44,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    rms_norm_eps=1e-5,
    initializer_range=0.3,  # wide, so that attention is far from uniform
)

LLAMA3 = dict(  # with 8 channels a head: one frequency is kept, one is scaled, two are between
    rope_type="llama3",
    rope_theta=100.0,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=64,
)

# name: configuration, stored dtype, size of a shard, whether config.json is rewritten as version 4 had it
MODELS = {
    "llama2": (LlamaConfig(**SIZES, tie_word_embeddings=True), torch.float32, "1GB", True),
    "llama3": (LlamaConfig(**SIZES, rope_parameters=LLAMA3), torch.bfloat16, "12KB", False),
    "llama3-old": (LlamaConfig(**SIZES, rope_parameters=LLAMA3), torch.float16, "1GB", True),
    "mistral": (MistralConfig(**SIZES, head_dim=12, sliding_window=7), torch.float16, "1GB", False),
    "qwen2": (Qwen2Config(**SIZES, tie_word_embeddings=True), torch.bfloat16, "1GB", False),
    "qwen3": (Qwen3Config(**SIZES, head_dim=16), torch.float32, "40KB", True),
}


def randomise(model):
    """Norms away from 1 and biases away from 0, which the usual initialisation does not give."""
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith("norm.weight"):
                value.uniform_(0.5, 1.5)
            elif name.endswith(".bias"):
                value.normal_(0.0, 0.5)


def old_spelling(path):
    """config.json as transformers 4 wrote it: rope_theta and rope_scaling outside, torch_dtype."""
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    rope["type"] = rope.pop("rope_type")
    config["rope_scaling"] = None if rope["type"] == "default" else rope
    config["torch_dtype"] = config.pop("dtype")
    if config["num_key_value_heads"] == config["num_attention_heads"]:
        del config["num_key_value_heads"]
    path.write_text(json.dumps(config, indent=2) + "\n")


def reference(directory, tokens):
    """input_ids, hidden states and logits of the stored weights."""
    model = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    ids = torch.randint(0, model.config.vocab_size, (2, tokens))
    last = []
    # The last of output_hidden_states has gone through the final norm; the hook sees it before.
    model.model.layers[-1].register_forward_hook(
        lambda module, inputs, output: last.append(output[0] if isinstance(output, tuple) else output)
    )
    with torch.no_grad():
        out = model(ids, output_hidden_states=True, use_cache=False)
    hidden = list(out.hidden_states[:-1]) + last
    tensors = {f"hidden.{i}": h.float().contiguous() for i, h in enumerate(hidden)}
    return {"input_ids": ids.to(torch.int32), "logits": out.logits.float().contiguous(), **tensors}


def make(name, out, tokens):
    config, dtype, shard, old = MODELS[name]
    directory = out / name
    torch.manual_seed(sorted(MODELS).index(name))
    model = AutoModelForCausalLM.from_config(config)
    randomise(model)
    model.to(dtype).save_pretrained(directory, max_shard_size=shard)
    (directory / "generation_config.json").unlink(missing_ok=True)
    if old:
        old_spelling(directory / "config.json")
    save_file(reference(directory, tokens), directory / "reference.safetensors")
    return directory


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--worker", help="command of the test worker, with its launcher")
    options = parser.parse_args()
    failures = 0
    for name in MODELS:
        directory = make(name, options.out, options.tokens)
        print(f"{name}: {directory}")
        if options.worker:
            command = shlex.split(options.worker) + ["forward_matches_a_reference"]
            environment = dict(os.environ, MPRESS_REFERENCE=str(directory.resolve()))
            failures += subprocess.run(command, env=environment).returncode != 0
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
