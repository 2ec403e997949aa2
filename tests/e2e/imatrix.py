#!/usr/bin/env python3
"""Reads an importance matrix with a reader of its own, and with the package gguf where that is there.

    imatrix.py OUT FILE.gguf [STATISTICS.safetensors BLOCK]

Keys and tensors must be those of llama-imatrix, in_sum2 and counts those of the checkpoint OUT: for
each linear map the sums of its state in units of the mean weight, and the tokens that count.  With
STATISTICS also the diagonals of the reference H of block BLOCK, to 1e-5.  Exit code 77 where a library
is missing.
"""
import json
import struct
import sys

try:
    import h5py
    import numpy as np
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

STATE = {"attn_q": "attn_in", "attn_k": "attn_in", "attn_v": "attn_in", "attn_output": "attn_out",
         "ffn_gate": "ffn_in", "ffn_up": "ffn_in", "ffn_down": "ffn_mid"}


def expect(condition, message):
    if not condition:
        sys.exit(f"imatrix: {message}")


def read_gguf(path):
    """Keys and tensors of a file of version 3 with the types that are needed here."""
    with open(path, "rb") as stream:
        raw = stream.read()
    at = 0

    def take(form):
        nonlocal at
        values = struct.unpack_from("<" + form, raw, at)
        at += struct.calcsize("<" + form)
        return values[0]

    def text():
        nonlocal at
        length = take("Q")
        at += length
        return raw[at - length:at].decode()

    def value(kind):
        if kind == 9:
            kind, count = take("I"), take("Q")
            return [value(kind) for _ in range(count)]
        return text() if kind == 8 else take({4: "I"}[kind])

    expect(raw[:4] == b"GGUF", f"{path}: no GGUF file")
    at = 4
    version, n_tensors, n_keys = take("I"), take("Q"), take("Q")
    expect(version == 3, f"{path}: version {version}")
    keys = {}
    for _ in range(n_keys):
        name = text()
        keys[name] = value(take("I"))
    infos = []
    for _ in range(n_tensors):
        name = text()
        shape = [take("Q") for _ in range(take("I"))]
        infos.append((name, shape, take("I"), take("Q")))
    begin = (at + 31) // 32 * 32
    tensors = {}
    for name, shape, kind, offset in infos:
        expect(kind == 0 and offset % 32 == 0, f"{path}: {name}: type {kind} at {offset}")
        tensors[name] = np.frombuffer(raw, "<f4", int(np.prod(shape)), begin + offset)
    return keys, tensors


def check_package(path, tensors):
    """The same by the format's own reader."""
    try:
        from gguf import GGUFReader
    except ImportError:
        return "no package gguf"
    found = {t.name: np.asarray(t.data).reshape(-1) for t in GGUFReader(path).tensors}
    expect(set(found) == set(tensors), f"{path}: the package gguf sees other tensors")
    for name, data in found.items():
        expect(np.array_equal(data, tensors[name]), f"{path}: the package gguf reads another {name}")
    return "read by the package gguf as well"


def reference(path, block, state):
    with open(path, "rb") as stream:
        raw = stream.read()
    length = struct.unpack("<Q", raw[:8])[0]
    entry = json.loads(raw[8:8 + length])[f"H.{block}.{state}"]
    begin, end = entry["data_offsets"]
    return np.diag(np.frombuffer(raw[8 + length:][begin:end], "<f8").reshape(entry["shape"]))


def main(out, path, statistics=None, block=None):
    keys, tensors = read_gguf(path)
    with open(f"{out}/report.json", encoding="utf-8") as stream:
        calibration = json.load(stream)["calibration"]
    expect(keys == {"general.type": "imatrix", "imatrix.datasets": [calibration["source"]],
                    "imatrix.chunk_count": calibration["windows"],
                    "imatrix.chunk_size": calibration["seqlen"]}, f"{path}: keys {keys}")
    names = 0
    with h5py.File(f"{out}/model.h5", "r") as file:
        for layer in sorted(name for name in file if name.startswith("model.layers.")):
            number = layer.rsplit(".", 1)[1]
            for linear, state in STATE.items():
                name = f"blk.{number}.{linear}.weight"
                if state not in file[layer]:
                    expect(f"{name}.in_sum2" not in tensors, f"{path}: {name} was not measured")
                    continue
                group = file[layer][state]
                tokens = group.attrs["tokens"]
                sums = group["in_sum2"][()] * (tokens / group.attrs["weight"])
                expect(np.allclose(tensors[f"{name}.in_sum2"], sums, rtol=1e-6, atol=0),
                       f"{path}: {name}.in_sum2 is not that of {layer}/{state}")
                expect(tensors[f"{name}.counts"].tolist() == [tokens], f"{path}: {name}.counts")
                names += 1
                if number == block:
                    wanted = reference(statistics, block, state)
                    expect(np.allclose(tensors[f"{name}.in_sum2"], wanted, rtol=1e-5, atol=0),
                           f"{path}: {name}.in_sum2 is not that of the reference")
    expect(names > 0 and len(tensors) == 2 * names, f"{path}: {len(tensors)} tensors for {names} maps")
    print(f"{path}: {names} linear maps, {check_package(path, tensors)}")


if __name__ == "__main__":
    if len(sys.argv) not in (3, 5):
        sys.exit("usage: imatrix.py OUT FILE.gguf [STATISTICS.safetensors BLOCK]")
    main(*sys.argv[1:])
