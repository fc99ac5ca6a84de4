"""FasterTransformer's two variables, which choose CUDA's attention where the engine's arguments are left out."""

from __future__ import annotations

import functools
import logging
import os

from .outputs import EngineInfo

FMHA = "FMHA_ENABLE"
HALF = "CONTEXT_ATTENTION_BMM1_HALF_ACCUM"


def attention() -> str:
    return "fused" if os.environ.get(FMHA, "ON") == "ON" else "unfused"


def unfused_scores() -> str:
    return "model" if os.environ.get(HALF) == "ON" else "float32"


def settle(info: EngineInfo) -> None:
    """After the choice was left to the environment: that the CPU has one attention is then no warning, and is said once, at info level."""
    if info.device == "cpu" and (FMHA in os.environ or HALF in os.environ):
        info.warnings[:] = [warning for warning in info.warnings if not warning.startswith("attention is 'unfused'")]
        _say()


@functools.cache
def _say() -> None:
    logging.getLogger("neoxnative").info("%s and %s choose CUDA's attention: the CPU has one, and uses it", FMHA, HALF)
