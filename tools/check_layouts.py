#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""On several GPUs: every layout of ranks gives what one GPU gives, with random weights in the shapes of Pythia-1b and GPT-NeoX-20B.

Pythia-1b's in float32: the same greedy tokens, and logits to 1e-5 (relative L2). 20B's in float16: logits within 5e-3.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from neoxnative import Engine, SamplingParams

NEW = 48
CHECKS = {  # layers as the argument says, 20B's
    "pythia-1b": {
        "dtype": "float32",
        "error": 1e-5,
        "shape": {"hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 8, "intermediate_size": 8192, "vocab_size": 50304},
    },
    "20B": {
        "dtype": "float16",
        "error": 5e-3,
        "shape": {"hidden_size": 6144, "num_attention_heads": 64, "intermediate_size": 24576, "vocab_size": 50432},
    },
}


def outcome(model: Path, dtype: str, devices: list[int], tp: int, pp: int) -> tuple[list[list[int]], np.ndarray, str]:
    engine = Engine(
        model,
        load_format="dummy",
        dtype=dtype,
        device="cuda",
        devices=devices,
        tensor_parallel_size=tp,
        pipeline_parallel_size=pp,
        kv_cache_memory=2**31,
        enable_prefix_caching=False,
    )
    rng = np.random.default_rng(0)
    prompts = [rng.integers(5, 50000, n).tolist() for n in (1, 7, 64, 200, 513, 90, 33, 5)]
    outputs = engine.generate(prompts, SamplingParams(max_tokens=NEW, temperature=0, ignore_eos=True))
    logits = engine.forward(rng.integers(5, 50000, (2, 150)))
    return [o.outputs[0].token_ids for o in outputs], logits, engine.info.ranks


def check(name: str, layers: int, gpus: int) -> bool:
    of = CHECKS[name]
    good = True
    with tempfile.TemporaryDirectory() as folder:
        config = {
            "model_type": "gpt_neox",
            "max_position_embeddings": 2048,
            "rotary_pct": 0.25,
            "hidden_act": "gelu",
            "use_parallel_residual": True,
        }
        config |= {"tie_word_embeddings": False, "torch_dtype": of["dtype"], "num_hidden_layers": layers} | of["shape"]
        (Path(folder) / "config.json").write_text(json.dumps(config))
        tokens, logits, _ = outcome(Path(folder), of["dtype"], [0], 1, 1)
        for tp in (t for t in range(1, gpus + 1) if gpus % t == 0):
            got, other, ranks = outcome(Path(folder), of["dtype"], list(range(gpus)), tp, gpus // tp)
            error = float(np.linalg.norm(other - logits) / np.linalg.norm(logits))
            same = sum(a == b for a, b in zip(got, tokens))
            right = error <= of["error"] and (of["dtype"] != "float32" or same == len(tokens))
            texts = f"{same} of {len(tokens)} texts are the same"
            verdict = "right" if right else "WRONG"
            print(f"{name}, {of['dtype']}, tp {tp}, pp {gpus // tp}: logits differ by {error:.1e}, {texts}; {ranks}: {verdict}", flush=True)
            good &= right
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, default=2)
    parser.add_argument("--layers", type=int, default=44, help="of 20B's shape")
    args = parser.parse_args()
    results = [check(name, args.layers, args.gpus) for name in CHECKS]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
