#!/usr/bin/env python3
"""Loads an exported directory with transformers and compares what it computes with mpress.

    python3 tests/e2e/transformers_loads.py OUT --data tests/data/golden/eval.safetensors \
        [--windows 4] [--seqlen 256] [--mpress build/mpress]

OUT is a finished run with hf/.  Both programs evaluate the first windows of the token file, mpress from
the checkpoint, transformers from OUT/hf unedited; their losses (nats per token, a function of all
logits) must agree to 1e-5, in single precision.  Also: no weight is missing, unexpected or of another
shape for transformers, and the stored dtype is that of the checkpoint's tensors.

Pinned: torch 2.13.0, transformers 5.23.0, safetensors 0.8.0.
"""
import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM


def load(directory):
    model, info = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, trust_remote_code=True, output_loading_info=True)
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[problem]:
            sys.exit(f"{directory}: {problem}: {info[problem]}")
    return model.eval()


@torch.no_grad()
def loss_of(model, tokens):
    total = 0.0
    for window in tokens:
        logits = model(window[None, :].long()).logits[0].double()
        total += torch.nn.functional.cross_entropy(logits[:-1], window[1:].long()).item()
    return total / len(tokens)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--seqlen", type=int, default=256)
    parser.add_argument("--mpress", default="build/mpress")
    args = parser.parse_args()

    with safe_open(args.data, "pt") as file:
        tokens = file.get_tensor("tokens").flatten()
    tokens = tokens[: len(tokens) // args.seqlen * args.seqlen].view(-1, args.seqlen)[: args.windows]
    command = [args.mpress, "eval", args.out, "--data", args.data, "--seqlen", args.seqlen,
               "--max-windows", len(tokens), "--json"]
    ours = json.loads(subprocess.run([str(c) for c in command], check=True, capture_output=True).stdout)
    theirs = loss_of(load(args.out / "hf"), tokens)
    difference = abs(ours["nll"] - theirs)
    print(f"mpress {ours['nll']:.8f}, transformers {theirs:.8f} nats per token: difference {difference:.1e}")
    if ours["windows"] != len(tokens) or not difference <= 1e-5:
        sys.exit("they do not agree")


main()
