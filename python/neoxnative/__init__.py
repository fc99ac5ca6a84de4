"""neoxnative: GPT-NeoX inference by a native engine."""

from ._core import NumericalError, build_info, version
from .engine import Engine
from .outputs import CompletionOutput, Delta, EngineInfo, Logprob, RequestOutput, ScoreOutput, Stats
from .params import SamplingParams
from .tensors import TensorOutput

__version__ = version()

__all__ = [
    "CompletionOutput",
    "Delta",
    "Engine",
    "EngineInfo",
    "Logprob",
    "NumericalError",
    "RequestOutput",
    "SamplingParams",
    "ScoreOutput",
    "Stats",
    "TensorOutput",
    "__version__",
    "build_info",
]
