# SPDX-License-Identifier: Apache-2.0
"""Random tiny GPT-NeoX models, written as HuggingFace folders from nothing but a seed and numpy.

The same numbers come out on every machine: RandomState's stream is frozen, and uniform variates need no function of the C library.
"""

import json
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

PREFIX = "gpt_neox."
SAFETENSORS_NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


@dataclass(frozen=True)
class Model:
    seed: int = 0
    layers: int = 2
    heads: int = 2
    head_dim: int = 32
    intermediate: int = 0  # 0: four times the hidden size
    vocab: int = 131
    max_positions: int = 1100
    hidden_act: str = "gelu"
    rotary_pct: float = 0.25
    rotary_base: int = 10000
    layer_norm_eps: float = 1e-5
    parallel_residual: bool = True
    attention_bias: bool = True
    tied: bool = False

    @property
    def hidden(self):
        return self.heads * self.head_dim

    @property
    def inner(self):
        return self.intermediate or 4 * self.hidden


def config(model, dialect="rope_parameters"):
    """config.json; the rotary embedding in transformers 5's dialect, or in the flat one of every older checkpoint."""
    c = {
        "architectures": ["GPTNeoXForCausalLM"],
        "model_type": "gpt_neox",
        "vocab_size": model.vocab,
        "hidden_size": model.hidden,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "intermediate_size": model.inner,
        "hidden_act": model.hidden_act,
        "max_position_embeddings": model.max_positions,
        "layer_norm_eps": model.layer_norm_eps,
        "use_parallel_residual": model.parallel_residual,
        "attention_bias": model.attention_bias,
        "tie_word_embeddings": model.tied,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    if dialect == "rope_parameters":
        c["dtype"] = "float32"
        c["rope_parameters"] = {
            "rope_type": "default",
            "rope_theta": float(model.rotary_base),
            "partial_rotary_factor": model.rotary_pct,
        }
    else:
        c["torch_dtype"] = "float32"
        c["rotary_pct"] = model.rotary_pct
        c["rotary_emb_base"] = model.rotary_base
    return c


def tensors(model, head_name="embed_out.weight"):
    """name -> float32 array. Every part is large enough to matter: a wrong bias or a swapped norm shows in the logits."""
    rng = np.random.RandomState(model.seed)

    def around(mean, std, *shape):
        return (mean + std * np.sqrt(12.0) * (rng.random_sample(shape) - 0.5)).astype(np.float32)

    h, inner = model.hidden, model.inner
    out = {PREFIX + "embed_in.weight": around(0.0, 1.5 / np.sqrt(h) if model.tied else 1.0, model.vocab, h)}

    def norm(name):
        out[name + ".weight"] = around(1.0, 0.2, h)
        out[name + ".bias"] = around(0.0, 0.1, h)

    def linear(name, outputs, inputs, bias=True):
        out[name + ".weight"] = around(0.0, 1.5 / np.sqrt(inputs), outputs, inputs)
        if bias:
            out[name + ".bias"] = around(0.0, 0.2, outputs)

    for i in range(model.layers):
        layer = f"{PREFIX}layers.{i}."
        norm(layer + "input_layernorm")
        norm(layer + "post_attention_layernorm")
        linear(layer + "attention.query_key_value", 3 * h, h, model.attention_bias)
        linear(layer + "attention.dense", h, h, model.attention_bias)
        linear(layer + "mlp.dense_h_to_4h", inner, h)
        linear(layer + "mlp.dense_4h_to_h", h, inner)
    norm(PREFIX + "final_layer_norm")
    if not model.tied:
        out[head_name] = around(0.0, 1.5 / np.sqrt(h), model.vocab, h)
    return out


def digest(model):
    """Of all weights: tells a changed generator from a wrong engine."""
    crc = 0
    for name, value in sorted(tensors(model).items()):
        crc = zlib.crc32(value.tobytes(), zlib.crc32(name.encode(), crc))
    return crc


def prompt(seed, length, vocab):
    return np.random.RandomState(seed).randint(0, vocab, length).astype(np.int32)


def to_bf16(a):
    """Round to nearest even, as uint16."""
    u = np.ascontiguousarray(a, np.float32).view(np.uint32).astype(np.uint64)
    return ((u + 0x7FFF + (u >> 16 & 1)) >> 16).astype(np.uint16)


def rounded(a, dtype):
    """The float32 values of a after storage in dtype."""
    if dtype == "bfloat16":
        return (to_bf16(a).astype(np.uint32) << 16).view(np.float32)
    return a.astype(dtype).astype(np.float32)


def write_safetensors(path, named, dtype="float32"):
    header, blobs, offset = {"__metadata__": {"format": "pt"}}, [], 0
    for name, value in named.items():
        blob = (to_bf16(value) if dtype == "bfloat16" else value.astype(dtype)).tobytes()
        span = [offset, offset + len(blob)]
        header[name] = {"dtype": SAFETENSORS_NAMES[dtype], "shape": list(value.shape), "data_offsets": span}
        blobs.append(blob)
        offset += len(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    Path(path).write_bytes(len(text).to_bytes(8, "little") + text + b"".join(blobs))
    return offset


def write(model, folder, *, dialect="rope_parameters", head_name="embed_out.weight", shards=1, dtype="float32", named=None, **overrides):
    """A HuggingFace folder. overrides: fields of config.json to set, or with None to leave out."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    c = config(model, dialect)
    c["dtype" if "dtype" in c else "torch_dtype"] = dtype
    for key, value in overrides.items():
        c.pop(key, None)
        if value is not None:
            c[key] = value
    (folder / "config.json").write_text(json.dumps(c, indent=1))
    named = tensors(model, head_name) if named is None else named
    if shards == 1:
        write_safetensors(folder / "model.safetensors", named, dtype)
        return folder
    weight_map, total, names = {}, 0, list(named)
    for i in range(shards):
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: named[name] for name in names[i::shards]}  # a layer's tensors lie in several files
        total += write_safetensors(folder / file, part, dtype)
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder
