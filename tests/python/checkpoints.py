# SPDX-License-Identifier: Apache-2.0
"""One model's tensors in the layouts of others than HuggingFace, by arithmetic of its own: nothing here uses the package's converters."""

import json
from pathlib import Path

import numpy as np

import models
from models import PREFIX


def ft_files(model, named, ranks):
    """file name -> float32 array: what FasterTransformer reads, element by element."""
    files = {
        "model.wte.bin": named[PREFIX + "embed_in.weight"],
        "model.lm_head.weight.bin": named[PREFIX + "embed_in.weight"] if model.tied else named["embed_out.weight"],
        "model.final_layernorm.weight.bin": named[PREFIX + "final_layer_norm.weight"],
        "model.final_layernorm.bias.bin": named[PREFIX + "final_layer_norm.bias"],
    }
    for i in range(model.layers):
        layer, to = f"{PREFIX}layers.{i}.", f"model.layers.{i}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            for part in ("weight", "bias"):
                files[f"{to}{norm}.{part}.bin"] = named[f"{layer}{norm}.{part}"]
        for rank in range(ranks):
            for name, array in _rank_files(model, named, layer, rank, ranks).items():
                files[f"{to}{name}.{rank}.bin"] = array
        dense = [named.get(f"{layer}{name}.bias", np.zeros(model.hidden, np.float32)) for name in ("attention.dense", "mlp.dense_4h_to_h")]
        if model.parallel_residual:
            dense = [bias / np.float32(ranks) for bias in dense]
            files[f"{to}mlp.attention.bias.sum.bin"] = dense[0] + dense[1]
        files[f"{to}attention.dense.bias.bin"], files[f"{to}mlp.dense_4h_to_h.bias.bin"] = dense
    return files


def _rank_files(model, named, layer, rank, ranks):
    h, d, heads, inner = model.hidden, model.head_dim, model.heads // ranks, model.inner // ranks
    weight = named[f"{layer}attention.query_key_value.weight"]
    bias = named.get(f"{layer}attention.query_key_value.bias", np.zeros(3 * h, np.float32))
    qkv_weight, qkv_bias = np.empty((h, 3, heads, d), np.float32), np.empty((3, heads, d), np.float32)
    for which in range(3):  # q, k, v
        for head in range(heads):
            for element in range(d):
                row = ((rank * heads + head) * 3 + which) * d + element
                qkv_weight[:, which, head, element] = weight[row]
                qkv_bias[which, head, element] = bias[row]
    dense, up = named[f"{layer}attention.dense.weight"], named[f"{layer}mlp.dense_h_to_4h.weight"]
    down = named[f"{layer}mlp.dense_4h_to_h.weight"]
    return {
        "attention.query_key_value.weight": qkv_weight,
        "attention.query_key_value.bias": qkv_bias,
        "attention.dense.weight": dense[:, rank * heads * d : (rank + 1) * heads * d].T,
        "mlp.dense_h_to_4h.weight": up[rank * inner : (rank + 1) * inner].T,
        "mlp.dense_h_to_4h.bias": named[f"{layer}mlp.dense_h_to_4h.bias"][rank * inner : (rank + 1) * inner],
        "mlp.dense_4h_to_h.weight": down[:, rank * inner : (rank + 1) * inner].T,
    }


def ft_config(model, dtype="fp32", **more):
    keys = {
        "head_num": model.heads,
        "size_per_head": model.head_dim,
        "inter_size": model.inner,
        "num_layer": model.layers,
        "rotary_embedding": int(model.head_dim * model.rotary_pct),
        "vocab_size": model.vocab,
        "start_id": 0,
        "end_id": 0,
        "use_gptj_residual": int(model.parallel_residual),
        "weight_data_type": dtype,
        **more,
    }
    return "[gptneox]\n" + "".join(f"{key}={value}\n" for key, value in keys.items() if value is not None)


def write_ft(model, folder, ranks, dtype="fp32", *, without=(), **more):
    """<folder>/<ranks>-gpu, whose sum files stand alone where the residual is parallel."""
    target = Path(folder) / f"{ranks}-gpu"
    target.mkdir(parents=True)
    (target / "config.ini").write_text(ft_config(model, dtype, **more))
    for name, array in ft_files(model, models.tensors(model), ranks).items():
        if model.parallel_residual and name.endswith(("attention.dense.bias.bin", "mlp.dense_4h_to_h.bias.bin")):
            continue
        if name not in without:
            values = models.to_bf16(array) if dtype == "bf16" else array.astype({"fp32": np.float32, "fp16": np.float16}[dtype])
            (target / name).write_bytes(values.tobytes())
    return target


JP_NAMES = {
    "input_layernorm": "ln_1",
    "attention.query_key_value": "attn.qkv_proj",
    "attention.dense": "attn.out_proj",
    "post_attention_layernorm": "ln_2",
    "mlp.dense_h_to_4h": "mlp.fc_in",
    "mlp.dense_4h_to_h": "mlp.fc_out",
}


def write_jp(model, folder, **extra):
    """The older port's folder, with position embeddings and a head's bias that are zero. extra: tensors."""
    named = {}
    for name, array in models.tensors(model).items():
        for new, old in JP_NAMES.items():
            name = name.replace(new, old)
        name = name.replace(PREFIX + "embed_in", "transformer.wte").replace(PREFIX + "final_layer_norm", "transformer.ln_f")
        named[name.replace(PREFIX + "layers", "transformer.h").replace("embed_out", "lm_head")] = array
    named |= {"transformer.wpe.weight": np.zeros((8, model.hidden), np.float32), "lm_head.bias": np.zeros(model.vocab, np.float32)}
    folder.mkdir(parents=True, exist_ok=True)
    models.write_safetensors(folder / "model.safetensors", named | extra)
    config = {
        "vocab_size": model.vocab,
        "n_embd": model.hidden,
        "n_head": model.heads,
        "n_layer": model.layers,
        "n_inner": model.inner,
        "rotary_dim": int(model.head_dim * model.rotary_pct),
        "gpt_j_residual": model.parallel_residual,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def contents(folder, *, without=("config.ini",)):
    """file name -> its bytes"""
    return {file.name: file.read_bytes() for file in Path(folder).iterdir() if file.name not in without}
