#!/usr/bin/env python3
"""Loads factored exports of every architecture with transformers and compares the logits.

    python3 tests/e2e/transformers_factored.py [--mpress build/mpress] [--dtype float32]

Each model of tests/data/reference gets factors in the place of some weights (the best of half the
full rank), in the layout of a factored directory but for the modelling file, which `mpress export`
adds; `mpress export --dense` makes the ordinary model of it.  On 64 tokens, in single precision:

    factored   transformers on the factored directory, against the model with the factors multiplied
               out in double precision: at most 1e-3 of difference in the logits
    dense      the same of the dense export (in float32; printed only where rounding decides it)
    mpress     the loss of `mpress eval` on the factored directory: at most 1e-5 nats per token

Also: nothing is missing or unexpected, a copy made by save_pretrained is the same model, loading is
refused without trust_remote_code, and the tokenizer encodes as its file says.

Pinned: torch 2.13.0, transformers 5.23.0, safetensors 0.8.0; also tried with transformers 4.46.3
and 4.57.3.
"""
import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import tokenizers
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

DATA = Path(__file__).resolve().parent.parent / "data"
TOKENS = 64
FACTORED = re.compile(r"layers\.(0\.self_attn\.(q|v)_proj|0\.mlp\.up_proj|1\.self_attn\.o_proj|"
                      r"1\.mlp\.(gate|down)_proj)$")
OLD = int(transformers.__version__.split(".")[0]) < 5

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


def factors(weight):
    u, s, v = torch.linalg.svd(weight.double(), full_matrices=False)
    rank = min(weight.shape) * max(weight.shape) // (2 * sum(weight.shape))
    return (u[:, :rank] * s[:rank].sqrt()), (s[:rank].sqrt()[:, None] * v[:rank])


def make_factored(model, to, dtype):
    """A factored directory without modelling file; returns the tensors of the dense model."""
    tensors, dense, ranks, stored = {}, {}, {}, {}
    for shard in model.glob("model*.safetensors"):
        stored |= load_file(shard)
    for name, value in stored.items():
        module, _, kind = name.rpartition(".")
        if not FACTORED.search(module):
            tensors[name] = value.to(dtype)
            dense[name] = tensors[name].float()
        elif kind == "bias":
            tensors[module + ".ALinear.bias"] = value.to(dtype)
            dense[name] = value.to(dtype).float()
        else:
            a, b = (f.to(dtype).contiguous() for f in factors(value))
            tensors |= {module + ".ALinear.weight": a, module + ".BLinear.weight": b}
            dense[name] = (a.double() @ b.double()).float()
            ranks[module] = a.shape[1]
    config = json.loads((model / "config.json").read_text())
    config |= {"model_type": "mpress_factored_" + config["model_type"], "truncation_ranks": ranks,
               "architectures": ["Factored" + config["architectures"][0]]}
    config["dtype" if "dtype" in config else "torch_dtype"] = str(dtype).removeprefix("torch.")
    to.mkdir()
    (to / "config.json").write_text(json.dumps(config))
    save_file(tensors, to / "model.safetensors", metadata={"format": "pt"})
    shutil.copy(DATA / "wikillama-5m" / "tokenizer.json", to)
    if OLD:  # it finds the class by this file or by a model_type of its own, 5 takes tokenizer.json
        (to / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    return dense


def load(directory, **options):
    options[("torch_" if OLD else "") + "dtype"] = torch.float32
    options["output_loading_info"] = True
    model, info = AutoModelForCausalLM.from_pretrained(directory, **options)
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[problem]:
            sys.exit(f"{directory}: {problem}: {info[problem]}")
    return model.eval()


@torch.no_grad()
def logits(model, tokens):
    return model(tokens[None, :].long()).logits[0]


def check_refusal(directory):
    try:
        AutoModelForCausalLM.from_pretrained(directory, trust_remote_code=False)
    except ValueError:
        return
    sys.exit(f"{directory}: loaded without trust_remote_code")


def check_copy(model, expected, tokens, to):
    model.save_pretrained(to)
    copied = logits(load(to, trust_remote_code=True), tokens)
    if not torch.equal(copied, expected):
        sys.exit(f"{to}: save_pretrained changed the model")


def check_tokenizer(directory):
    text = "Factored models tokenize\n as before: 1234567."
    file = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    expected = file.encode(text, add_special_tokens=False).ids
    loaded = AutoTokenizer.from_pretrained(directory, trust_remote_code=True)
    if loaded(text, add_special_tokens=False).input_ids != expected:
        sys.exit(f"{directory}: the tokenizer does not do what its file says")


def mpress_loss(mpress, directory, tokens, file):
    save_file({"tokens": tokens}, file)
    command = [mpress, "eval", directory, "--data", file, "--seqlen", TOKENS, "--json"]
    out = subprocess.run([str(c) for c in command], check=True, capture_output=True).stdout
    return json.loads(out)["nll"]


def compare(name, args, scratch):
    dtype = getattr(torch, args.dtype)
    tokens = torch.randint(96, (TOKENS,), generator=torch.Generator().manual_seed(1)).int()
    dense = make_factored(DATA / "reference" / name, scratch / "made", dtype)
    for directory, option in ((scratch / "hf", []), (scratch / "dense", ["--dense"])):
        subprocess.run([args.mpress, "export", scratch / "made", directory, *option], check=True,
                       capture_output=True)
    check_refusal(scratch / "hf")
    check_tokenizer(scratch / "hf")
    model, ordinary = load(scratch / "hf", trust_remote_code=True), load(scratch / "dense")
    got, from_dense = logits(model, tokens), logits(ordinary, tokens)
    check_copy(model, got, tokens, scratch / "copy")
    ordinary.load_state_dict(dense, strict=False)
    expected = logits(ordinary, tokens)
    loss = torch.nn.functional.cross_entropy(expected[:-1].double(), tokens[1:].long()).item()
    ours = abs(mpress_loss(args.mpress, scratch / "hf", tokens, scratch / "t.safetensors") - loss)
    off, dense_off = (got - expected).abs().max().item(), (from_dense - expected).abs().max().item()
    print(f"{name}: logits to {expected.abs().max():.2f}; factored {off:.1e}, "
          f"dense {dense_off:.1e}, mpress {ours:.1e}")
    return off <= 1e-3 and ours <= 1e-5 and (dense_off <= 1e-3 or args.dtype != "float32")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mpress", default="build/mpress")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    args = parser.parse_args()
    agree = []
    for model in sorted(p.parent for p in (DATA / "reference").glob("*/config.json")):
        config = json.loads((model / "config.json").read_text())
        new_rope = (config.get("rope_parameters") or {}).get("rope_type", "default") != "default"
        if not hasattr(transformers, config["architectures"][0]) or OLD and new_rope:
            print(f"{model.name}: left out, this transformers does not know it")
            continue
        with tempfile.TemporaryDirectory() as scratch:
            agree.append(compare(model.name, args, Path(scratch)))
    if not agree or not all(agree):
        sys.exit("they do not agree")


main()
