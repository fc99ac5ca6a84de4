"""Folders of EleutherAI's training checkpoints, as an engine takes them: without a config.json and a tokenizer.json."""

from __future__ import annotations

import json
from pathlib import Path

from . import _core


def own_files(folder: Path) -> tuple[str, Path | None]:
    """What the yml of a training checkpoint amounts to as text of a config.json, and its tokenizer's file. ("", None): of other folders."""
    if (folder / "config.json").exists() or not (step := _core.training_step(folder)) or (Path(step) / "config.json").exists():
        return "", None
    from .convert import eleutherai  # here, since other folders need no YAML

    return json.dumps(eleutherai.config(folder)), eleutherai.tokenizer_file(folder)
