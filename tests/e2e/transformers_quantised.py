#!/usr/bin/env python3
"""Loads exports of a quantised run with transformers and compares what they compute with mpress.

    python3 tests/e2e/transformers_quantised.py OUT --data tests/data/golden/eval.safetensors \
        [--formats compressed-tensors gptq awq] [--windows 4] [--seqlen 256] [--mpress build/mpress]

OUT is a finished run of gptq, rtn or sparsegpt with --bits.  For every format:

    logits   on the first window, against those of the dense export (whose weights are the checkpoint's,
             bit for bit) in single precision: at most 1e-2 of the largest logit
    loss     on all windows, against `mpress eval OUT`, in nats per token: at most 1e-3

Also: no weight is missing, unexpected or of another shape for transformers; the dense export's loss is
that of mpress to 1e-5; and compressed-tensors, dequantised by its package in the dtype of the model,
gives the weights of the dense export bit for bit.

Pinned: torch 2.13.0, transformers 5.24.0, compressed-tensors 0.20.1; for gptq and awq optimum 2.3.0 and
gptqmodel 7.7.0.  compressed-tensors 0.20.1 expects zero points of asymmetric grids in a wrong shape where
they are left packed, so that these are loaded with dequantize=True only.
"""
import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, CompressedTensorsConfig
from transformers.utils import logging

logging.disable_progress_bar()


def load(directory, dtype=torch.float32, **options):
    model, info = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, device_map="cpu",
                                                       output_loading_info=True, **options)
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[problem]:
            sys.exit(f"{directory}: {problem}: {info[problem]}")
    return model.eval()


@torch.no_grad()
def compute(model, windows):
    """Logits of the first window, mean loss of all."""
    total, first = 0.0, None
    for window in windows:
        logits = model(window[None, :].long()).logits[0].double()
        first = logits if first is None else first
        total += torch.nn.functional.cross_entropy(logits[:-1], window[1:].long()).item()
    return first, total / len(windows)


def run(args, *words):
    command = [str(word) for word in (args.mpress, *words)]
    return subprocess.run(command, check=True, capture_output=True).stdout


def check_weights(directory, dense):
    """What the package makes of the integers, without a change of dtype."""
    got = load(directory, "auto", quantization_config=CompressedTensorsConfig(dequantize=True))
    expected, got = load(dense, "auto").state_dict(), got.state_dict()
    different = [name for name in expected if not torch.equal(expected[name], got[name])]
    if different:
        sys.exit(f"{directory}: other weights than in the dense export: {different[:3]}")
    print("  dequantised by compressed-tensors: the weights of the dense export, bit for bit")


def ways_of(directory):
    """How a directory is loaded: with its name, options of from_pretrained."""
    quantization = json.loads((directory / "config.json").read_text())["quantization_config"]
    if quantization["quant_method"] != "compressed-tensors":
        return [("packed", {})]
    ways = [("dequantised", {"quantization_config": CompressedTensorsConfig(dequantize=True)})]
    symmetric = quantization["config_groups"]["group_0"]["weights"]["symmetric"]
    return ways + ([("packed", {})] if symmetric else [])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--formats", nargs="+", default=["compressed-tensors"])
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--seqlen", type=int, default=256)
    parser.add_argument("--mpress", default="build/mpress")
    args = parser.parse_args()

    with safe_open(args.data, "pt") as file:
        tokens = file.get_tensor("tokens").flatten()
    windows = tokens[: args.windows * args.seqlen].view(-1, args.seqlen)
    ours = json.loads(run(args, "eval", args.out, "--data", args.data, "--seqlen", args.seqlen,
                          "--max-windows", len(windows), "--json"))["nll"]
    agree = True
    with tempfile.TemporaryDirectory() as scratch:
        dense = Path(scratch) / "dense"
        run(args, "export", args.out, dense, "--format", "dense")
        expected, loss = compute(load(dense), windows)
        print(f"mpress {ours:.7f} nats per token, its dense export {loss:.7f}")
        agree &= abs(ours - loss) <= 1e-5
        for name in args.formats:
            directory = Path(scratch) / name
            run(args, "export", args.out, directory, "--format", name)
            for way, options in ways_of(directory):
                logits, loss = compute(load(directory, **options), windows)
                off = ((logits - expected).abs().max() / expected.abs().max()).item()
                print(f"{name}, {way}: {loss:.7f} nats per token; logits off by {off:.1e}")
                agree &= off <= 1e-2 and abs(loss - ours) <= 1e-3
            if name == "compressed-tensors":
                check_weights(directory, dense)
    if not agree:
        sys.exit("they do not agree")


main()
