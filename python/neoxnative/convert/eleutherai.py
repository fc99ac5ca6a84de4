"""The configuration of a training checkpoint of EleutherAI's GPT-NeoX: of its yml, and of what its layer files hold.

The yml's keys and their defaults: gpt-neox, configs/neox_arguments.md. Keys may be written with - or _.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any, NoReturn

from .. import _core

_FILE = re.compile(r"layer_(\d+)-model_(\d+)-model_states\.pt")
_END_OF_TEXT = "<|endoftext|>"

# What HuggingFace's GPT-NeoX has no counterpart of: key -> (what it must be, the default first).
_ONLY: dict[str, tuple[Any, ...]] = {
    "norm": ("layernorm", "te_layernorm"),
    "pos_emb": ("learned", "rotary"),  # a missing key means learned embeddings, which are refused below
    "gpt_j_tied": (False,),
    "mlp_type": ("regular",),
    "use_bias_in_norms": (True,),
    "use_bias_in_mlp": (True,),
    "use_qk_layernorm": (False,),
    "sliding_window_width": (None,),
    "use_mup": (False,),
    "moe_num_experts": (1,),
    "layernorm_one_p": (False,),
}
_ACTIVATIONS = {"gelu": "gelu", "relu": "relu", "silu": "silu", "swish": "silu"}


def config(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """HuggingFace's config.json of the model in `folder`, a step's folder or the one above it.

    Sizes that no yml tells, of the vocabulary and the MLP, are those of the tensors. gelu with bias-gelu-fusion is "gelu_fast", as it is
    computed then. The end of text is that of the tokenizer (vocab-file) where it lies there too.
    FileNotFoundError: no layer files, no yml. ValueError: a key that is missing or wrong. NotImplementedError: a variant that the engine
    does not compute, by its key.
    """
    step = _step(folder)
    settings = _Settings(_places(Path(folder), step))
    settings.refuse_variants()
    heads = settings.integer("num_attention_heads")
    if (kv := settings.get("num_kv_heads", heads)) not in (heads, None):
        settings.unsupported("num_kv_heads", kv, f"{heads}, as num_attention_heads")
    sizes = _Sizes(step)
    tied = not settings.boolean("no_weight_tying", False)
    out = {
        "architectures": ["GPTNeoXForCausalLM"],
        "model_type": "gpt_neox",
        "vocab_size": sizes.vocab,
        "hidden_size": settings.integer("hidden_size"),
        "num_hidden_layers": settings.integer("num_layers"),
        "num_attention_heads": heads,
        "intermediate_size": sizes.inner,
        "hidden_act": settings.activation(),
        "max_position_embeddings": settings.integer("max_position_embeddings"),
        "rotary_pct": settings.number("rotary_pct", 1.0),
        "rotary_emb_base": settings.number("rotary_emb_base", 10000),
        "layer_norm_eps": settings.number("layernorm_epsilon", 1e-5),
        "use_parallel_residual": settings.boolean("gpt_j_residual", False),
        "attention_bias": settings.boolean("use_bias_in_attn_linear", True),
        "tie_word_embeddings": tied,
        "torch_dtype": sizes.dtype,
    }
    end = _end_of_text(tokenizer_file(folder))
    return out if end is None else {**out, "bos_token_id": end, "eos_token_id": end}


def tokenizer_file(folder: str | os.PathLike[str]) -> Path | None:
    """The HuggingFace tokenizer that the yml names as vocab-file, where a file of that name lies in one of the checkpoint's folders."""
    step = _step(folder)
    places = _places(Path(folder), step)
    name = _Settings(places).get("vocab_file", None)
    if not isinstance(name, str) or not name.endswith(".json"):
        return None
    return next((place / Path(name).name for place in places if (place / Path(name).name).is_file()), None)


def _step(folder: str | os.PathLike[str]) -> Path:
    step = _core.training_step(folder)
    if not step:
        raise FileNotFoundError(f"{folder} has no training checkpoint: expected files such as layer_00-model_00-model_states.pt")
    return Path(step)


def _places(folder: Path, step: Path) -> list[Path]:
    """Where a yml or a tokenizer may be, the nearest to the layer files first."""
    out: list[Path] = []
    for place in (step, folder, step.resolve().parent):
        out += [p for p in (place, place / "configs") if p not in out and p.is_dir()]
    return out


class _Settings:
    """The keys of all yml files of the first place that has some."""

    def __init__(self, places: list[Path]) -> None:
        found = ([file for file in sorted(place.iterdir()) if file.suffix in (".yml", ".yaml")] for place in places)
        files = next((group for group in found if group), None)
        if files is None:
            raise FileNotFoundError(f"no yml of the model's training: expected one in {', '.join(map(str, places))}")
        self._values: dict[str, Any] = {}
        self._file: dict[str, Path] = {}
        self.where = ", ".join(map(str, files))
        for file in files:
            for key, value in _read(file).items():
                name = str(key).replace("-", "_")
                if name in self._values and self._values[name] != value:
                    raise ValueError(f"{name} is {self._values[name]!r} in {self._file[name]} and {value!r} in {file}: expected the same")
                self._values[name], self._file[name] = value, file

    def get(self, key: str, default: Any) -> Any:
        return self._values.get(key, default)

    def _wrong(self, key: str, expected: str) -> NoReturn:
        found = repr(self._values[key]) if key in self._values else "missing"
        raise ValueError(f"{self._file.get(key, self.where)}: {key} is {found}, expected {expected}")

    def unsupported(self, key: str, value: Any, expected: str) -> NoReturn:
        raise NotImplementedError(f"{self._file.get(key, self.where)}: {key} is {value!r}, expected {expected}")

    def integer(self, key: str) -> int:
        value = self.get(key, None)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            self._wrong(key, "a number from 1 on")
        return value

    def number(self, key: str, default: float) -> float:
        value = self.get(key, default)
        try:  # YAML 1.1 takes 1e-5 for text
            return float(value) if isinstance(value, str) else value + 0
        except (TypeError, ValueError):
            self._wrong(key, "a number")

    def boolean(self, key: str, default: bool) -> bool:
        value = self.get(key, default)
        if not isinstance(value, bool):
            self._wrong(key, "true or false")
        return value

    def activation(self) -> str:
        name = self.get("activation", "gelu")
        if name not in _ACTIVATIONS:
            self.unsupported("activation", name, " or ".join(_ACTIVATIONS))
        fused = name == "gelu" and self.boolean("bias_gelu_fusion", False) and not self.boolean("onnx_safe", False)
        return "gelu_fast" if fused else _ACTIVATIONS[name]

    def refuse_variants(self) -> None:
        for key, allowed in _ONLY.items():
            if (value := self.get(key, allowed[0])) not in allowed:
                self.unsupported(key, value, " or ".join(map(repr, allowed)))
        if self.get("pos_emb", "learned") != "rotary":
            self.unsupported("pos_emb", self.get("pos_emb", "learned"), "'rotary'")
        kinds = {kind for entry in self.get("attention_config", None) or [] for kind in (entry[0] if isinstance(entry, list) else [entry])}
        if kinds - {"global", "flash"}:
            self.unsupported("attention_config", self.get("attention_config", None), "global or flash attention in all layers")


def _read(file: Path) -> dict[str, Any]:
    import yaml

    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{file} is not YAML: {' '.join(str(error).split())[:300]}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{file} is {str(values)[:80]!r}, expected keys and values")
    return values


class _Sizes:
    """Of tensors, all ranks' together."""

    def __init__(self, step: Path) -> None:
        files: dict[int, list[Path]] = {}
        for file in sorted(step.iterdir()):
            if match := _FILE.fullmatch(file.name):
                files.setdefault(int(match[1]), []).append(file)
        self.vocab, _ = self._rows(step, files, "word_embeddings.weight")
        self.inner, self.dtype = self._rows(step, files, "mlp.dense_h_to_4h.weight")

    def _rows(self, step: Path, files: dict[int, list[Path]], name: str) -> tuple[int, str]:
        for layer in sorted(files):
            if name in (first := _core.Checkpoint(files[layer][0])).names():
                return sum(_core.Checkpoint(file).shape(name)[0] for file in files[layer]), first.dtype(name)
        raise ValueError(f"{step}: no layer file has {name}")


def _end_of_text(file: Path | None) -> int | None:
    if file is None:
        return None
    try:
        tokenizer = json.loads(file.read_text(encoding="utf-8"))
        ids = tokenizer["model"]["vocab"] | {token["content"]: token["id"] for token in tokenizer.get("added_tokens") or ()}
        found: int | None = ids.get(_END_OF_TEXT)
        return found
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{file} is not a tokenizer's JSON: {error!r}") from None
