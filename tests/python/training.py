# SPDX-License-Identifier: Apache-2.0
"""A model as EleutherAI's GPT-NeoX leaves it behind: layer files of several tensor-parallel ranks, and the yml of its training."""

import torch

import models

COLUMN = ("attention.query_key_value.weight", "attention.query_key_value.bias", "mlp.dense_h_to_4h.weight", "mlp.dense_h_to_4h.bias")
ROW = ("attention.dense.weight", "mlp.dense_4h_to_h.weight")
ROW_BIAS = ("attention.dense.bias", "mlp.dense_4h_to_h.bias")


def yml(model, **changes):
    """YAML as GPT-NeoX's own files are written: one flow mapping, keys with - or _, True and true, comments."""
    keys = {
        "num-layers": model.layers,
        "hidden_size": model.hidden,
        "num-attention-heads": model.heads,
        "max-position-embeddings": model.max_positions,
        "pos-emb": '"rotary"',
        "norm": '"layernorm"',
        "rotary_pct": model.rotary_pct,
        "rotary-emb-base": model.rotary_base,
        "layernorm-epsilon": model.layer_norm_eps,
        "no-weight-tying": str(not model.tied).lower(),
        "gpt_j_residual": model.parallel_residual,
        "activation": '"gelu"',
        "attention-config": '[[["flash"], 2]]',
        "optimizer": '{"type": "Adam", "params": {"lr": 0.97e-4}}',
        **changes,
    }
    lines = "".join(f'  "{key}": {value},\n' for key, value in keys.items() if value is not None)
    return "# how it was trained\n{\n" + lines + "}\n"


def parts(name, value, ranks, parallel_residual):
    """What each rank has of one tensor of a layer file."""
    value = torch.from_numpy(value)
    if name in COLUMN or name in ("word_embeddings.weight", "final_linear.weight"):
        return value.chunk(ranks, 0)
    if name in ROW:
        return value.chunk(ranks, 1)
    if name in ROW_BIAS and parallel_residual:  # each rank adds its own before the sum over ranks
        return [value * share for share in torch.arange(1, ranks + 1) / sum(range(1, ranks + 1))]
    return [value] * ranks


def layer_files(model, named=None):
    """File index -> name in the file -> array."""
    named = models.tensors(model) if named is None else named
    prefix = models.PREFIX
    last = model.layers + 3
    files = {0: {"word_embeddings.weight": named[prefix + "embed_in.weight"]}}
    for i in range(model.layers):
        start = f"{prefix}layers.{i}."
        files[i + 2] = {name.removeprefix(start): value for name, value in named.items() if name.startswith(start)}
    files[last] = {f"norm.{part}": named[f"{prefix}final_layer_norm.{part}"] for part in ("weight", "bias")}
    if not model.tied:
        files[last + 1] = {"final_linear.weight": named["embed_out.weight"]}
    return files


def file_name(index, rank):
    return f"layer_{index:02d}-model_{rank:02d}-model_states.pt"


def write(model, folder, ranks=1, dtype=torch.float32, step="global_step10", named=None, zipped=True, **changes):
    """folder/latest, folder/configs/model.yml and the step's folder, which is returned. changes: of the yml's keys, None = not there."""
    place = folder / step
    place.mkdir(parents=True)
    (folder / "latest").write_text(step + "\n")
    (folder / "configs").mkdir()
    (folder / "configs" / "model.yml").write_text(yml(model, **changes))
    for index, tensors in layer_files(model, named).items():
        for rank in range(ranks):
            state = {name: parts(name, value, ranks, model.parallel_residual)[rank].to(dtype) for name, value in tensors.items()}
            if "attention.dense.weight" in state:
                state["attention.rotary_emb.inv_freq"] = torch.rand(4).half()
            module = torch.nn.Module()  # for a state_dict with metadata, as DeepSpeed saves it
            saved = module.state_dict()
            saved.update(state)
            path = place / file_name(index, rank)
            torch.save({k: v.clone() for k, v in saved.items()} if index % 2 else saved, path, _use_new_zipfile_serialization=zipped)
    (place / "mp_rank_00_model_states.pt").write_bytes(b"of no interest")
    return place
