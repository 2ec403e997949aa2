#!/usr/bin/env python3
"""Reads the result of a run back with other programs' libraries, without torch.

    read_back.py OUT MODEL

OUT/hf (safetensors, numpy) and OUT/model.h5 (h5py, through its external links) must hold the
tensors of MODEL: the same names, shapes and dtypes; what has no mask unchanged, bit for bit; +0.0
exactly where a mask has a 1, and both views of the result equal.  Exit code 77 where a library is
missing.
"""
import glob
import json
import os
import re
import sys

try:
    import h5py
    import numpy as np
    import safetensors
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

RAW = {1: "<u1", 2: "<u2", 4: "<u4", 8: "<u8"}  # elements as bits, by their size
SIZES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2,
         "U16": 2, "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1}


def expect(condition, message):
    if not condition:
        sys.exit(f"read_back: {message}")


def read_directory(path):
    """All tensors of a Hugging Face directory: name -> (dtype, bits as an array of its shape)."""
    tensors = {}
    for file in sorted(glob.glob(os.path.join(path, "*.safetensors"))):
        with open(file, "rb") as stream:
            for name, entry in safetensors.deserialize(stream.read()):
                bits = np.frombuffer(entry["data"], RAW[SIZES[entry["dtype"]]])
                expect(name not in tensors, f"{path}: {name} is there twice")
                tensors[name] = (entry["dtype"], bits.reshape(entry["shape"]))
    expect(tensors, f"{path}: no tensors")
    return tensors


def check_index(path, tensors):
    """The index, where there is one, names every tensor and the bytes of all of them."""
    index = os.path.join(path, "model.safetensors.index.json")
    if not os.path.exists(index):
        single = os.path.join(path, "model.safetensors")
        expect(os.path.exists(single), f"{path}: neither an index nor model.safetensors")
        return
    with open(index, encoding="utf-8") as stream:
        content = json.load(stream)
    expect(set(content["weight_map"]) == set(tensors), f"{index}: other names than in the files")
    total = sum(bits.nbytes for _, bits in tensors.values())
    expect(content["metadata"]["total_size"] == total, f"{index}: total_size is not {total}")


def values(dtype, bits):
    """What the bits mean to h5py: bf16 is read as float32."""
    if dtype == "BF16":
        return (bits.astype("<u4") << 16).view("<f4")
    kinds = {"F": "f", "I": "i", "U": "u"}
    if dtype == "BOOL" or dtype.startswith("F8"):
        return bits
    return bits.view(f"<{kinds[dtype[0]]}{SIZES[dtype]}")


def place_of(name):
    """Where model.h5 shows a tensor: the last dot and that after a block's number are slashes."""
    block = re.fullmatch(r"(model\.layers\.\d+)\.(.+)\.([^.]+)", name)
    return "/".join(block.groups()) if block else "/".join(name.rsplit(".", 1))


def find(file, name):
    for place in (place_of(name), name):
        if place in file:
            return file[place]
    sys.exit(f"read_back: {file.filename}: no data set for {name}")


def check_h5(file, name, dtype, bits):
    data = find(file, name)
    stored = data.attrs["dtype"].decode()
    expect(stored == dtype, f"{name}: {stored} in model.h5, {dtype} in hf")
    expect(data.shape == bits.shape, f"{name}: {data.shape} in model.h5, {bits.shape} in hf")
    got = data[()]
    if got.dtype.kind == "V":  # opaque
        got = np.asarray(got).view(bits.dtype).reshape(bits.shape)
    expect(np.array_equal(got, values(dtype, bits), equal_nan=got.dtype.kind == "f"),
           f"{name}: model.h5 and hf differ")


def mask_of(file, name, shape):
    """The mask of a weight, one byte each; None where it has none."""
    block = re.fullmatch(r"(model\.layers\.\d+)\.(.+)\.weight", name)
    place = f"{block.group(1)}/{block.group(2)}/mask" if block else None
    if place is None or place not in file:
        return None
    return np.unpackbits(file[place][()], axis=1, count=shape[1], bitorder="little")


def main(out, model):
    original, result = read_directory(model), read_directory(os.path.join(out, "hf"))
    check_index(os.path.join(out, "hf"), result)
    expect(set(original) == set(result), "other names than in the model: "
           f"{sorted(set(original) ^ set(result))[:4]}")
    masked = zeros = 0
    with h5py.File(os.path.join(out, "model.h5"), "r") as file:
        for name, (dtype, bits) in result.items():
            expect(dtype == original[name][0], f"{name}: {dtype}, was {original[name][0]}")
            expect(bits.shape == original[name][1].shape, f"{name}: shape {bits.shape}")
            check_h5(file, name, dtype, bits)
            mask = mask_of(file, name, bits.shape)
            if mask is None:
                expect(np.array_equal(bits, original[name][1]), f"{name}: changed without a mask")
                continue
            expect(np.array_equal(mask != 0, bits == 0),
                   f"{name}: zeros are not where the mask says")
            negative = 1 << (8 * SIZES[dtype] - 1)
            expect(not np.any(bits == negative), f"{name}: a negative zero")
            masked += 1
            zeros += int(mask.sum())
    print(f"{out}: {len(result)} tensors as in {model}, {masked} with masks, {zeros} zeros")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: read_back.py OUT MODEL")
    main(sys.argv[1], sys.argv[2])
