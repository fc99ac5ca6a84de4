"""What FasterTransformer's environment variables say where an argument is left unset."""

import os


def default_attention() -> str:
    return "fused" if os.environ.get("FMHA_ENABLE", "ON") == "ON" else "unfused"


def default_unfused_scores() -> str:
    return "model" if os.environ.get("CONTEXT_ATTENTION_BMM1_HALF_ACCUM") == "ON" else "float32"
