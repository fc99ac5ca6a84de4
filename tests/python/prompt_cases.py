# SPDX-License-Identifier: Apache-2.0
"""Requests with learned prompts and prompts of their own, whose continuations by HuggingFace are in tests/data/prompts.npz."""

from dataclasses import dataclass, field

import numpy as np

import models
from models import Model

MODELS = (
    Model(seed=31, layers=4, heads=4, head_dim=24, intermediate=150, max_positions=192),
    Model(seed=32, layers=3, heads=2, head_dim=32, max_positions=192, parallel_residual=False, rotary_pct=0.5),
)
NEW_TOKENS = 20
BEAMS = 4
LEAST_GAP = 1e-4  # between the best two edited logits of any step: the engine's error decides nothing


def values(seed, *shape):
    return np.random.RandomState(seed).normal(0, 1, shape).astype(np.float32)


def tasks(model):
    """prompt_learning: prefixes of less than a page, one page, and more; embeddings; and a task without a prompt."""
    prefix = (model.layers, 2, model.heads)
    return {
        "short": values(1, *prefix, 5, model.head_dim),
        "tuned": values(2, 9, model.hidden),
        "page": values(3, *prefix, 16, model.head_dim),
        "none": None,
        "other": values(4, 4, model.hidden),
        "long": values(5, *prefix, 37, model.head_dim),
    }


@dataclass(frozen=True)
class Case:
    ids: tuple = ()  # of the vocabulary, or vocabulary + row of the task's table
    task: str = ""
    soft: tuple = ()  # seed and rows of embeddings
    penalty: float = 1.0
    beams: int = 1
    new: int = field(default=NEW_TOKENS)

    def embeds(self, model):
        return values(self.soft[0], self.soft[1], model.hidden) if self.soft else None

    def prompt(self, model):
        parts = {"prompt_token_ids": list(self.ids), "task": self.task, "prompt_embeds": self.embeds(model)}
        return {name: part for name, part in parts.items() if part is not None and len(part)}


def cases(model):
    def ids(seed, length):
        return tuple(models.prompt(seed, length, model.vocab).tolist())

    common, v = ids(90, 33), model.vocab
    return [
        Case(common),
        Case(common, "short"),
        Case(common, "long"),
        Case(common, "page", penalty=1.4),
        Case(common, "tuned"),
        Case(common, "other", penalty=1.3),
        Case(common, "none"),
        Case(common, soft=(20, 12)),
        Case(common, soft=(21, 12), penalty=1.3),
        Case(common, soft=(20, 12), penalty=1.5),
        Case(common, "long", penalty=1.3),
        Case(ids(91, 1), "short"),
        Case(ids(92, 1), "long", penalty=1.2),
        Case(ids(93, 70), "page"),
        Case(ids(94, 12), "long", soft=(22, 30)),
        Case(ids(94, 12), "page", soft=(22, 30), penalty=1.3),
        Case(soft=(23, 17)),
        Case(ids(95, 3), soft=(24, 1), penalty=1.3),
        Case((*ids(96, 7), v + 2, v, *ids(97, 20), v + 8, *ids(98, 4)), "tuned", penalty=1.3),
        Case((v + 3, *ids(99, 11), v + 1), "other"),
        Case(common, "long", beams=BEAMS),
        Case(common, "short", beams=BEAMS),
        Case(common, "tuned", beams=BEAMS),
        Case(common, soft=(20, 12), beams=BEAMS),
    ]
