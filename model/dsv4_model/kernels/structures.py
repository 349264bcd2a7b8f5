"""The structures of ``native/abi.h``, field by field."""

from __future__ import annotations

import ctypes as c

ABI = 1

_Floats = c.c_void_p


class Matrix(c.Structure):
    """A weight as stored."""

    _fields_ = (
        ("data", c.c_void_p),
        ("scale", c.c_void_p),
        ("kind", c.c_int32),
        ("rows", c.c_int32),
        ("columns", c.c_int32),
        ("scale_columns", c.c_int32),
    )


class Mixing(c.Structure):
    """Hyper-connection maps of one site."""

    _fields_ = (("fn", _Floats), ("base", _Floats), ("scale", _Floats))


class Compressor(c.Structure):
    """A compressor's weights."""

    _fields_ = (("wkv", Matrix), ("wgate", Matrix), ("ape", _Floats), ("norm", _Floats))


class Layer(c.Structure):
    """One layer: where its cache lies and its weights."""

    _fields_ = (
        *((name, c.c_int32) for name in ("ratio", "entries_per_page", "slots", "number")),
        *(
            (name, c.c_int64)
            for name in ("window", "values", "gates", "key_values", "key_gates", "entries", "keys")
        ),
        *((name, _Floats) for name in ("attn_norm", "ffn_norm", "sink", "q_norm", "kv_norm")),
        ("attn_mixing", Mixing),
        ("ffn_mixing", Mixing),
        *((name, Matrix) for name in ("wq_a", "wq_b", "wkv", "wo_a", "wo_b")),
        ("compressor", Compressor),
        ("indexer_wq_b", Matrix),
        ("indexer_weights", Matrix),
        ("indexer_compressor", Compressor),
        ("gate", Matrix),
        ("gate_bias", _Floats),
        ("tid2eid", c.c_void_p),
        ("shared", Matrix * 3),
        ("experts", c.c_void_p),
    )


Resolve = c.CFUNCTYPE(c.c_int, c.c_void_p, c.c_int32, c.POINTER(c.c_int32), c.c_int32, c.POINTER(Matrix))


class Model(c.Structure):
    """Sizes and weights of a model."""

    _fields_ = (
        *(
            (name, c.c_int32)
            for name in (
                "vocab hidden layers heads head_dim rotary q_lora groups o_lora inner experts chosen "
                "window index_heads index_dim index_topk streams sinkhorn row_storage key_storage "
                "row_bytes row_groups rounds has_mtp"
            ).split()
        ),
        *((name, c.c_float) for name in ("eps", "hc_eps", "route_scale", "limit")),
        ("frequencies_plain", _Floats),
        ("frequencies_compressed", _Floats),
        ("embed", Matrix),
        ("head", Matrix),
        ("norm", _Floats),
        ("head_mixing", Mixing),
        ("layer", c.POINTER(Layer)),
        ("e_proj", Matrix),
        ("h_proj", Matrix),
        ("enorm", _Floats),
        ("hnorm", _Floats),
        ("mtp_norm", _Floats),
        ("mtp_mixing", Mixing),
        ("resolve", Resolve),
        ("resolve_user", c.c_void_p),
    )


class Chunk(c.Structure):
    """New tokens of one sequence."""

    _fields_ = (
        ("rings", c.c_void_p),
        ("pages", c.c_void_p),
        ("ids", c.c_void_p),
        ("position", c.c_int64),
        ("count", c.c_int32),
        ("logits", c.c_int32),
        ("streams", c.c_int32),
        ("reserved", c.c_int32),
    )
