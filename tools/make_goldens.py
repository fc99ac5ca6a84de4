# SPDX-License-Identifier: Apache-2.0
"""Writes tests/data/goldens.npz: HuggingFace's logits and greedy tokens of the seeded models, and of the demo model.

python tools/make_goldens.py [demo model folder]      needs torch and transformers
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers

from hf_peer import TESTS, Peer, grid, models

DEMO = TESTS.parent / "python/neoxnative/models/classics-7m"
DEMO_PROMPT_LENGTHS = (5, 40, 300)
DEMO_POSITIONS = (0, 7, 31, 299)


def greedy_of_all(peer, prompts):
    """tokens, gaps, norms, each [prompts, NEW_TOKENS]"""
    made = [peer.greedy(ids, grid.NEW_TOKENS) for ids in prompts]
    return [np.stack(part) for part in zip(*made)]


def golden_models():
    made = grid.models_of(grid.pairwise_rows())
    columns = {"logits": [], "tokens": [], "gaps": [], "norms": [], "digests": []}
    for model in made:
        with tempfile.TemporaryDirectory() as folder:
            peer = Peer(models.write(model, folder))
        ids = models.prompt(grid.PROMPT_SEED, max(grid.PROMPT_LENGTHS), model.vocab)
        columns["logits"].append(peer.logits(ids)[[n - 1 for n in grid.PROMPT_LENGTHS]])
        tokens, gaps, norms = greedy_of_all(peer, [ids[:n] for n in grid.PROMPT_LENGTHS])
        columns["tokens"].append(tokens.astype(np.uint8))
        columns["gaps"].append(gaps)
        columns["norms"].append(norms)
        columns["digests"].append(models.digest(model))
        print(grid.name_of(model), f"{len(np.unique(tokens))} different tokens, smallest gap {gaps.min():.1e}", flush=True)
    return {name: np.stack(values) for name, values in columns.items()}


def golden_demo(folder):
    peer = Peer(folder)
    ids = models.prompt(grid.PROMPT_SEED, max(DEMO_PROMPT_LENGTHS), peer.model.config.vocab_size)
    tokens, gaps, norms = greedy_of_all(peer, [ids[:n] for n in DEMO_PROMPT_LENGTHS])
    return {
        "demo_logits": peer.logits(ids)[list(DEMO_POSITIONS)],
        "demo_positions": np.array(DEMO_POSITIONS),
        "demo_lengths": np.array(DEMO_PROMPT_LENGTHS),
        "demo_tokens": tokens.astype(np.int16),
        "demo_gaps": gaps,
        "demo_norms": norms,
    }


def main():
    torch.manual_seed(0)
    made = golden_models() | golden_demo(Path(sys.argv[1]) if len(sys.argv) > 1 else DEMO)
    made["peer"] = np.array(f"torch {torch.__version__}, transformers {transformers.__version__}, float32, eager attention")
    path = TESTS / "data/goldens.npz"
    np.savez_compressed(path, **made)
    print(path, path.stat().st_size, "bytes")


main()
