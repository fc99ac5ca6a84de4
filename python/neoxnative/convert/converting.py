"""Whole conversions: from a source to a folder that is there when all of it is."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import _core
from . import eleutherai, ft
from .output import run, whole_folder, write_text
from .prompts import LearnedPrompts, PrefixPrompt, stored_prompts
from .quantized import QuantizedLayout, config_of
from .safetensors import Layout
from .shape import eos_field, ini_of_shape
from .source import Source, generation_eos, open_source, read_config

_COMPANIONS = ("generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "spiece.model")
_QKV = "gpt_neox.layers.0.attention.query_key_value.weight"


@dataclass(frozen=True)
class Report:
    """folder: what was written; bytes: of weights; left_out: tensors of the source that a GPT-NeoX model does not have; warnings: what else
    is not in what was written."""

    folder: Path
    bytes: int
    left_out: list[str]
    warnings: list[str]


def to_ft(
    source: Source | str | os.PathLike[str],
    save_dir: str | os.PathLike[str],
    *,
    ranks: int = 1,
    dtype: str | None = None,
    model_name: str | None = None,
    prompts: Sequence[PrefixPrompt] = (),
    overwrite: bool = False,
    threads: int | None = None,
) -> Report:
    """Writes `<save_dir>/<ranks>-gpu`, FasterTransformer's folder for that tensor-parallel size.

    source: a folder in any format that `Engine` reads, another `<T>-gpu` too
    dtype: "float32", "float16" or "bfloat16"; None = the source's
    model_name: of config.ini; None = the source folder's name
    prompts: prefix prompts of tasks, by number; none = those of the source, if it is FasterTransformer's
    overwrite: replace what is there; else a folder that is not empty is a FileExistsError
    threads: that convert; None = the machine's cores, up to 8
    ValueError: a tensor is missing, of another size, or not zero where the format has no place for it; ranks does not divide the model.
    The tokenizer's files come along.
    """
    source = source if isinstance(source, Source) else open_source(source)
    dtype = dtype or source.dtype(_QKV)
    target = Path(save_dir) / f"{ranks}-gpu"
    learned = LearnedPrompts(prompts) if prompts else stored_prompts(source.path, source.shape, source.dtype(_QKV))
    jobs = [*ft.jobs(source, ranks, dtype), *(task.job(source.shape, ranks, dtype) for task in learned.tasks)]
    size = ft.folder_bytes(source, dtype)
    with whole_folder(target, bytes_needed=size, overwrite=overwrite) as folder:
        run(jobs, folder, threads=threads, text=f"converting to {target}")
        name = model_name or source.path.resolve().name
        ini = ini_of_shape(source.shape, model_name=name, dtype=dtype, prompt_keys=learned.keys(), sections=learned.sections())
        _companions(source, folder)
        if len(source.shape.end_ids) > 1 and not (folder / "generation_config.json").exists():  # config.ini has one end_id
            write_text(folder / "generation_config.json", json.dumps({"eos_token_id": list(source.shape.end_ids)}) + "\n")
        write_text(folder / "config.ini", ini)
    warnings = [] if source.shape.end_ids else ["no end-of-text id is known: end_id is -1, which ends no text"]
    return Report(target, size, source.left_out, warnings)


def to_hf(
    source: Source | str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    dtype: str | None = None,
    quantization: str | None = None,
    group_size: int | None = None,
    overwrite: bool = False,
    threads: int | None = None,
) -> Report:
    """Writes HuggingFace's folder `target`: config.json and safetensors files of up to 5 GB.

    dtype: None = each tensor keeps its own
    quantization: of the matrices of layers and head: "int8", "w8a8", "int4" or "w4a8", as Engine's; None = they stay numbers
    group_size: inputs that share a scale, with int4 and w4a8: 32, 64 or 128; None = 64
    """
    source = source if isinstance(source, Source) else open_source(source)
    learned = stored_prompts(source.path, source.shape, source.dtype(_QKV))
    layout = Layout(source, dtype) if quantization is None else QuantizedLayout(source, dtype, quantization, group_size)
    target = Path(target)
    with whole_folder(target, bytes_needed=layout.size, overwrite=overwrite) as folder:
        layout.begin(folder)
        run(layout.jobs(), folder, threads=threads, text=f"converting to {target}")
        _companions(source, folder)
        config = {key: value for key, value in source.config.items() if key not in ("dtype", "torch_dtype")}
        config |= {"dtype" if "dtype" in source.config else "torch_dtype": dtype or source.dtype(_QKV)}
        config |= {"tie_word_embeddings": source.is_tied and quantization is None}
        if quantization is not None:
            config |= {"quantization_config": config_of(quantization, group_size)}
        write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
    tasks = ", ".join(task.task for task in learned.tasks)
    return Report(target, layout.size, source.left_out, [f"the learned prompts of {tasks} have no place there" for _ in tasks[:1]])


def write_config(folder: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Writes the config.json that the yml of EleutherAI's folder amounts to beside its layer files, and returns its path."""
    step = _core.training_step(folder)
    if not step:
        raise FileNotFoundError(f"{folder} holds no training checkpoint, expected layer_*-model_*-model_states.pt")
    file = Path(step) / "config.json"
    if file.exists() and not overwrite:
        raise FileExistsError(f"{file} is there: expected none, or to be told to overwrite it")
    partial = file.with_name("config.json.partial")
    write_text(partial, json.dumps(eleutherai.config(Path(folder)), indent=2) + "\n")
    partial.replace(file)
    return file


def _companions(source: Source, folder: Path) -> None:
    for name, file in source.companions(_COMPANIONS).items():
        shutil.copyfile(file, folder / name)
    generation = folder / "generation_config.json"
    if generation.exists() and set(generation_eos(folder)) not in (set(), set(source.shape.end_ids)):  # config.ini's end_id is another
        config = read_config(generation) | {"eos_token_id": eos_field(source.shape.end_ids)}
        write_text(generation, json.dumps(config, indent=2) + "\n")
