"""A model's sizes and variants, from config.json's fields and to them, and from FasterTransformer's config.ini and to it."""

from __future__ import annotations

import configparser
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from .values import FT_NAMES


@dataclass(frozen=True)
class Shape:
    """Of a GPT-NeoX model. rotary: dimensions of each head that turn; start_id: BOS; end_ids: EOS, or none."""

    layers: int
    heads: int
    head_dim: int
    inner: int
    vocab: int
    rotary: int
    parallel: bool
    hidden_act: str
    eps: float
    rotary_base: float
    positions: int
    start_id: int
    end_ids: tuple[int, ...]
    attention_bias: bool
    tied: bool

    @property
    def hidden(self) -> int:
        return self.heads * self.head_dim


def shape_of_config(config: Mapping[str, Any], where: str) -> Shape:
    """From config.json's fields, with transformers' defaults. ValueError and NotImplementedError name `where` and the field."""

    def size(key: str, least: int = 1) -> int:
        value = config.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"{where}: {key} is {value!r}, expected an integer of {least} or more")
        return value

    hidden, heads = size("hidden_size"), size("num_attention_heads")
    if hidden % heads:
        raise ValueError(f"{where}: hidden_size {hidden} is not a multiple of num_attention_heads {heads}")
    fraction, base = config.get("rotary_pct", 0.25), config.get("rotary_emb_base", config.get("rope_theta", 10000))
    for key in ("rope_parameters", "rope_scaling"):
        rope = config.get(key) or {}
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind != "default":
            raise NotImplementedError(f"{where}: {key}: rope_type is {kind!r}, expected default (no scaling)")
        fraction, base = rope.get("partial_rotary_factor", fraction), rope.get("rope_theta", base)
    return Shape(
        layers=size("num_hidden_layers"),
        heads=heads,
        head_dim=hidden // heads,
        inner=size("intermediate_size"),
        vocab=size("vocab_size"),
        rotary=int(hidden // heads * fraction),
        parallel=bool(config.get("use_parallel_residual", True)),
        hidden_act=str(config.get("hidden_act", "gelu")),
        eps=float(config.get("layer_norm_eps", 1e-5)),
        rotary_base=float(base),
        positions=int(config.get("max_position_embeddings", 2048)),
        start_id=_first(config.get("bos_token_id"), 0),
        end_ids=eos_ids(config),
        attention_bias=bool(config.get("attention_bias", True)),
        tied=bool(config.get("tie_word_embeddings", False)),
    )


def eos_ids(config: Mapping[str, Any]) -> tuple[int, ...]:
    """Of config.json or generation_config.json."""
    ids = config.get("eos_token_id")
    return () if ids is None else tuple(ids) if isinstance(ids, Sequence) else (int(ids),)


def _first(ids: Any, otherwise: int) -> int:
    if isinstance(ids, Sequence):
        ids = ids[0] if ids else None
    return otherwise if ids is None else int(ids)


def config_of_shape(shape: Shape, dtype: str) -> dict[str, Any]:
    """config.json's fields, as every version of transformers reads them."""
    fraction = shape.rotary / shape.head_dim
    if int(shape.head_dim * fraction) != shape.rotary:  # rounded down past it
        fraction = (shape.rotary + 0.5) / shape.head_dim
    return {
        "architectures": ["GPTNeoXForCausalLM"],
        "model_type": "gpt_neox",
        "vocab_size": shape.vocab,
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "intermediate_size": shape.inner,
        "hidden_act": shape.hidden_act,
        "max_position_embeddings": shape.positions,
        "layer_norm_eps": shape.eps,
        "rotary_pct": fraction,
        "rotary_emb_base": shape.rotary_base,
        "use_parallel_residual": shape.parallel,
        "attention_bias": shape.attention_bias,
        "tie_word_embeddings": shape.tied,
        "bos_token_id": shape.start_id,
        "eos_token_id": eos_field(shape.end_ids),
        "torch_dtype": dtype,
    }


def eos_field(ids: Sequence[int]) -> int | list[int] | None:
    """As HuggingFace's files have it."""
    return None if not ids else ids[0] if len(ids) == 1 else list(ids)


def ini_of_shape(
    shape: Shape, *, model_name: str, dtype: str, prompt_keys: Mapping[str, str], sections: Mapping[str, Mapping[str, str]]
) -> str:
    """config.ini: FasterTransformer's keys, then those that it does not know. prompt_keys, sections: of learned prompts."""
    ini = configparser.ConfigParser(interpolation=None)
    ini["gptneox"] = {
        "model_name": model_name,
        "head_num": str(shape.heads),
        "size_per_head": str(shape.head_dim),
        "inter_size": str(shape.inner),
        "num_layer": str(shape.layers),
        "rotary_embedding": str(shape.rotary),
        "vocab_size": str(shape.vocab),
        "start_id": str(shape.start_id),
        "end_id": str(shape.end_ids[0] if shape.end_ids else -1),
        "use_gptj_residual": str(int(shape.parallel)),
        "weight_data_type": FT_NAMES[dtype],
        **prompt_keys,
        "hidden_act": shape.hidden_act,
        "layernorm_eps": repr(shape.eps),
        "rotary_emb_base": repr(shape.rotary_base),
        "max_position_embeddings": str(shape.positions),
    }
    ini.read_dict(sections)
    text = io.StringIO()
    ini.write(text)
    return text.getvalue()


def read_ini(file: Path) -> tuple[configparser.ConfigParser, str]:
    """config.ini, and its section that describes the model."""
    ini = configparser.ConfigParser(interpolation=None, inline_comment_prefixes=(";", "#"), strict=False)
    ini.read_string(file.read_text(encoding="utf-8"))
    section = "gptneox" if ini.has_section("gptneox") else next((name for name in ini.sections() if "head_num" in ini[name]), None)
    if section is None:
        raise ValueError(f"{file}: no section has head_num, expected [gptneox] with the model's sizes")
    return ini, section


def ini_integer(file: Path, ini: configparser.ConfigParser, section: str, key: str, otherwise: int | None = None) -> int:
    text = ini[section].get(key)
    if text is None and otherwise is not None:
        return otherwise
    try:
        return int(text or "", 0)
    except ValueError:
        raise ValueError(f"{file}: [{section}] {key} is {text!r}, expected an integer") from None


def shape_of_ini(file: Path) -> tuple[Shape, str]:
    """The shape and the weights' type that config.ini tells, as the engine reads it."""
    ini, section = read_ini(file)
    keys, number = ini[section], partial(ini_integer, file, ini, section)
    heads, head_dim = number("head_num"), number("size_per_head")
    types = {name: dtype for dtype, name in FT_NAMES.items()}
    stored = keys.get("weight_data_type", "fp32")
    if stored not in types:
        raise ValueError(f"{file}: [{section}] weight_data_type is {stored!r}, expected one of {', '.join(types)}")
    shape = Shape(
        layers=number("num_layer" if "num_layer" in keys else "decoder_layers"),
        heads=heads,
        head_dim=head_dim,
        inner=number("inter_size", 4 * heads * head_dim),
        vocab=number("vocab_size"),
        rotary=number("rotary_embedding"),
        parallel=number("use_gptj_residual", 1) == 1,
        hidden_act=keys.get("hidden_act", "gelu_new"),
        eps=float(keys.get("layernorm_eps", "1e-5")),
        rotary_base=float(keys.get("rotary_emb_base", "10000")),
        positions=number("max_position_embeddings", 2048),
        start_id=number("start_id", 0),
        end_ids=() if number("end_id") == -1 else (number("end_id"),),
        attention_bias=True,
        tied=False,
    )
    return shape, types[stored]
