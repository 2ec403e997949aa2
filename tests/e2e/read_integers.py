#!/usr/bin/env python3
"""Unpacks exports of a quantised run, each by what its format says, and compares with the checkpoint.

    read_integers.py OUT MODEL DIR...

OUT/model.h5 is read with h5py; every DIR (compressed-tensors, GPTQ, AWQ or dense, as its config.json says)
with a few lines of numpy.  The codes are taken out one bit after the other, so that nothing here is like
the shifts of the program.  For every linear map the weights (u - z) s, rounded to the dtype of the
model, must be those of the checkpoint, bit for bit, and every other tensor that of MODEL.  Exit code 77
where a library is missing.
"""
import json
import os
import sys

import read_back as rb

np, h5py, expect = rb.np, rb.h5py, rb.expect


def to_bits(dtype, values):
    """Float32 values as elements of dtype."""
    values = values.astype(np.float32) + np.float32(0)  # no negative zeros
    if dtype == "F32":
        return values.view("<u4")
    if dtype == "F16":
        return values.astype(np.float16).view("<u2")
    bits = values.view("<u4").astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2")


def codes_of(words, bits, count):
    """[rows, words] -> [rows, count]: code i is bits [i b, i b + b) of a row, low ones first."""
    stream = np.unpackbits(np.ascontiguousarray(words).view(np.uint8), axis=1, bitorder="little")
    stream = stream[:, : count * bits].reshape(len(words), count, bits).astype(np.int64)
    return (stream << np.arange(bits)).sum(axis=2)


def weights(codes, zeros, scales):
    """[out, in], [out, groups], [out, groups] -> [out, in] in float32."""
    width = codes.shape[1] // scales.shape[1]
    zeros, scales = (np.repeat(x, width, axis=1) for x in (zeros, scales))
    return (codes - zeros).astype(np.float32) * scales.astype(np.float32)


def from_checkpoint(group):
    bits, columns = int(group.attrs["bits"]), int(group.attrs["d_in"])
    scales = group["scale"][()].astype(np.float32)
    expect(("zero" in group) == (not group.attrs["symmetric"]), f"{group.name}: zero points")
    expect(scales.shape[1] == columns // (int(group.attrs["group"]) or columns), f"{group.name}: groups")
    expect(np.all(scales > 0), f"{group.name}: a scale of zero")
    zeros = group["zero"][()] if "zero" in group else np.full(scales.shape, 1 << (bits - 1))
    codes = codes_of(group["packed"][()].astype("<i4"), bits, columns)
    result = to_bits(group["scale"].attrs["dtype"].decode(), weights(codes, zeros, scales))
    if "mask" in group:
        mask = np.unpackbits(group["mask"][()], axis=1, count=columns, bitorder="little")
        expect(np.array_equal(mask != 0, result == 0), f"{group.name}: mask")
        expect(np.all(mask.reshape(-1, 4).sum(axis=1) >= 2), f"{group.name}: not 2:4")
    expect(("mask" in group) == (group.attrs["method"].decode() == "sparsegpt"), f"{group.name}: mask")
    return result


def compressed_tensors(get, name, config):
    scheme = config["config_groups"]["group_0"]["weights"]
    bits, (rows, columns) = scheme["num_bits"], get(name + ".weight_shape", "I64")
    scales = get(name + ".weight_scale")
    size = scheme["group_size"] if scheme["strategy"] == "group" else columns
    expect(scales.shape == (rows, columns // size), f"{name}: scales {scales.shape}")
    zeros = np.zeros(scales.shape)
    if not scheme["symmetric"]:
        packed = get(name + ".weight_zero_point", "I32")
        zeros = codes_of(packed.T, bits, rows).T - (1 << (bits - 1))
    codes = codes_of(get(name + ".weight_packed", "I32"), bits, columns) - (1 << (bits - 1))
    return weights(codes, zeros, scales)


def gptq(get, name, config):
    bits, scales = config["bits"], get(name + ".scales", "F16").T
    expect(config["checkpoint_format"] == "gptq" and not config["desc_act"], f"{name}: not v1")
    index = get(name + ".g_idx", "I32")
    size = config["group_size"] if config["group_size"] > 0 else len(index)
    expect(np.array_equal(index, np.arange(len(index)) // size), f"{name}: g_idx")
    codes = codes_of(get(name + ".qweight", "I32").T, bits, len(index))
    zeros = codes_of(get(name + ".qzeros", "I32"), bits, len(codes)).T + 1
    expect(not config["sym"] or np.all(zeros == 1 << (bits - 1)), f"{name}: zero points")
    return weights(codes, zeros, scales)


def awq(get, name, config):
    expect(config["bits"] == 4 and config["version"] == "gemm" and config["zero_point"], name)
    order = [0, 2, 4, 6, 1, 3, 5, 7]  # nibble i of a word belongs to column order[i] of eight

    def columns(words):
        nibbles = codes_of(words, 4, 8 * words.shape[1]).reshape(len(words), -1, 8)
        return nibbles[:, :, np.argsort(order)].reshape(len(words), -1).T

    scales = get(name + ".scales", "F16").T
    codes = columns(get(name + ".qweight", "I32"))
    size = config["group_size"] if config["group_size"] > 0 else codes.shape[1]
    expect(scales.shape[1] == codes.shape[1] // size, f"{name}: groups")
    return weights(codes, columns(get(name + ".qzeros", "I32")), scales)


FORMATS = {"compressed-tensors": (compressed_tensors, "weight_packed", "ignore"),
           "gptq": (gptq, "qweight", None), "awq": (awq, "qweight", "modules_to_not_convert")}


def check(path, quantised, original):
    """`quantised`: name -> (dtype, bits) of the checkpoint; the others are as in `original`."""
    tensors, used = rb.read_directory(path), set()
    rb.check_index(path, tensors)
    with open(os.path.join(path, "config.json"), encoding="utf-8") as stream:
        config = json.load(stream).get("quantization_config")

    def get(name, dtype=None):
        expect(name in tensors, f"{path}: no {name}")
        used.add(name)
        expect(dtype in (None, tensors[name][0]), f"{path}: {name} is {tensors[name][0]}")
        return rb.values(*tensors[name])

    for name, (dtype, bits) in quantised.items():
        if config is None:
            got = tensors[name + ".weight"][1]
            used.add(name + ".weight")
        else:
            got = to_bits(dtype, FORMATS[config["quant_method"]][0](get, name, config))
        expect(got.shape == bits.shape and np.array_equal(got, bits), f"{path}: {name} differs")
    rest = {name for name in original if name.removesuffix(".weight") not in quantised}
    expect(set(tensors) == used | rest, f"{path}: {sorted(set(tensors) ^ (used | rest))[:4]}")
    for name in rest:
        expect(tensors[name][0] == original[name][0] and
               np.array_equal(tensors[name][1], original[name][1]), f"{path}: {name} differs")
    if config is None:
        return "dense"
    dense = {name[: -len(".weight")] for name in rest
             if name.startswith("model.layers.") and original[name][1].ndim == 2}
    ignore = FORMATS[config["quant_method"]][2]
    if ignore is not None:
        expect(set(config[ignore]) == dense | {"lm_head"}, f"{path}: {ignore}: {config[ignore]}")
    else:
        kept = sum(config.get("modules_in_block_to_quantize", []), [])
        expect(bool(kept) == bool(dense), f"{path}: modules_in_block_to_quantize")
        expect(not kept or all(name.endswith(tuple(kept)) for name in quantised), f"{path}: {kept}")
        expect(not kept or not any(name.endswith(tuple(kept)) for name in dense), f"{path}: {kept}")
        with open(os.path.join(path, "quantize_config.json"), encoding="utf-8") as stream:
            expect(json.load(stream) == config, f"{path}: quantize_config.json is another")
    return config["quant_method"]


def main(out, model, directories):
    original, quantised = rb.read_directory(model), {}
    with h5py.File(os.path.join(out, "model.h5"), "r") as file:
        for name, (dtype, bits) in original.items():
            linear = name.removesuffix(".weight")
            group = file.get(rb.place_of(linear + ".packed").rpartition("/")[0])
            if group is not None and "packed" in group:
                quantised[linear] = (dtype, from_checkpoint(group))
                expect(quantised[linear][1].shape == bits.shape, f"{linear}: shape")
    expect(quantised, f"{out}: nothing is quantised")
    for path in directories:
        kind = check(path, quantised, original)
        print(f"{path}: {kind}, {len(quantised)} linear maps as in {out}, bit for bit")


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit("usage: read_integers.py OUT MODEL DIR...")
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
