# SPDX-License-Identifier: Apache-2.0
"""Beam searches that are compared with HuggingFace: every width, length penalty and way of stopping, with what else may be asked."""

import itertools
from dataclasses import dataclass, field

import models
from models import Model
from neoxnative import SamplingParams

MODELS = {
    "parallel": Model(seed=41, heads=2, head_dim=32, intermediate=160, vocab=61, max_positions=256),
    "sequential": Model(
        seed=42, layers=3, heads=3, head_dim=24, vocab=73, max_positions=256, parallel_residual=False, hidden_act="gelu_new"
    ),
}
PROMPT_LENGTHS = (1, 2, 7, 15, 16, 17, 40, 90)
NEW_TOKENS = 24
GRID = list(itertools.product((2, 4, 8), (0.0, 0.5, 1.0, 2.0), (True, False, "never")))  # width, length_penalty, early_stopping


@dataclass(frozen=True)
class Variant:
    """What is asked besides, by our name and by HuggingFace's."""

    ours: dict = field(default_factory=dict)
    theirs: dict = field(default_factory=dict)


def variants(eos, other):
    """eos: the model's; other: a second one."""
    bad = [[7], [3, 4], [other, 9]]
    return {
        "plain": Variant(),
        "without EOS": Variant({"ignore_eos": True}, {"eos_token_id": None}),
        "two EOS": Variant({"stop_token_ids": [other]}, {"eos_token_id": [eos, other]}),
        "edits": Variant(
            {"repetition_penalty": 1.3, "bad_words": bad, "min_tokens": 6, "no_repeat_ngram_size": 3, "logit_bias": {11: 1.5, 2: -2.0}},
            {
                "repetition_penalty": 1.3,
                "bad_words_ids": bad,
                "min_new_tokens": 6,
                "no_repeat_ngram_size": 3,
                "sequence_bias": {(11,): 1.5, (2,): -2.0},
            },
        ),
    }


def prompts(vocab):
    return [models.prompt(500 + length, length, vocab).tolist() for length in PROMPT_LENGTHS]


def params(width, length_penalty, early_stopping, variant, **more):
    asked = {"max_tokens": NEW_TOKENS, "beam_width": width, "n": width, "length_penalty": length_penalty, "early_stopping": early_stopping}
    return SamplingParams(**asked, **variant.ours, **more)
