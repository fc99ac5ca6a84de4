"""Checkpoints from one format to another: FasterTransformer's folders and HuggingFace's, from any format that `Engine` reads."""

from .converting import Report, to_ft, to_hf, write_config

__all__ = ["Report", "to_ft", "to_hf", "write_config"]
