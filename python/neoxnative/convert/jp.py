"""An older port of GPT-NeoX to HuggingFace's classes: names as `transformer.h.0.attn.qkv_proj.weight`, config fields as `n_embd`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .shape import Shape, config_of_shape
from .source import EMBEDDING, HEAD, Source, read_config

_LAYER_PARTS = {
    "input_layernorm": "ln_1",
    "attention.query_key_value": "attn.qkv_proj",
    "attention.dense": "attn.out_proj",
    "post_attention_layernorm": "ln_2",
    "mlp.dense_h_to_4h": "mlp.fc_in",
    "mlp.dense_4h_to_h": "mlp.fc_out",
}


def open_jp_source(path: str | os.PathLike[str]) -> Source:
    """FileNotFoundError, or ValueError naming config.json's field."""
    folder = Path(path)
    config = read_config(folder / "config.json")
    shape = _shape(config, f"{folder}/config.json")
    return Source(folder, shape, config_of_shape(shape, "float32"), _names(shape.layers))


def _shape(config: Mapping[str, Any], where: str) -> Shape:
    def size(key: str) -> int:
        value = config.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{where}: {key} is {value!r}, expected an integer of 1 or more")
        return value

    hidden, heads = size("n_embd"), size("n_head")
    if hidden % heads:
        raise ValueError(f"{where}: n_embd {hidden} is not a multiple of n_head {heads}")
    rotary = config.get("rotary_dim")
    return Shape(
        layers=size("n_layer"),
        heads=heads,
        head_dim=hidden // heads,
        inner=config.get("n_inner") or 4 * hidden,
        vocab=size("vocab_size"),
        rotary=hidden // heads if rotary is None else int(rotary),
        parallel=bool(config.get("gpt_j_residual", False)),
        hidden_act=str(config.get("activation_function", "gelu_new")),
        eps=float(config.get("layer_norm_epsilon", 1e-5)),
        rotary_base=10000.0,
        positions=int(config.get("n_positions") or 2048),
        start_id=int(config.get("bos_token_id") or 0),
        end_ids=(int(config.get("eos_token_id") or 0),),
        attention_bias=True,
        tied=False,
    )


def _names(layers: int) -> dict[str, str]:
    names = {EMBEDDING: "transformer.wte.weight", HEAD: "lm_head.weight"}
    names |= {f"gpt_neox.final_layer_norm.{part}": f"transformer.ln_f.{part}" for part in ("weight", "bias")}
    for i in range(layers):
        for new, old in _LAYER_PARTS.items():
            names |= {f"gpt_neox.layers.{i}.{new}.{part}": f"transformer.h.{i}.{old}.{part}" for part in ("weight", "bias")}
    return names
