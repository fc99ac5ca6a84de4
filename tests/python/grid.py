# SPDX-License-Identifier: Apache-2.0
"""Which models are compared with HuggingFace: a grid of architectures, and a small subset in which every pair of choices meets."""

import itertools

from models import Model

AXES = {
    "parallel_residual": (True, False),
    "hidden_act": ("gelu", "tanh"),  # "tanh" becomes one of TANH_FORMS in turn: names of one function
    "head_dim": (32, 64, 80, 96, 128),
    "rotary_pct": (0.25, 0.5, 1.0),
    "rotary_base": (10000, 25000),
    "tied": (False, True),
}
TANH_FORMS = ("gelu_new", "gelu_fast", "gelu_pytorch_tanh")

PROMPT_SEED = 2024
PROMPT_LENGTHS = (1, 2, 15, 16, 17, 127, 129, 1000)  # on both sides of page and step borders
NEW_TOKENS = 64
ERROR = 1e-5  # relative L2 allowed between two logit rows


def all_rows():
    return list(itertools.product(*AXES.values()))


def pairs_of(row):
    return {(i, row[i], j, row[j]) for i, j in itertools.combinations(range(len(row)), 2)}


def pairwise_rows():
    """Greedily the row that meets most pairs not met yet, then the one of the least used choices: always the same set."""
    rows = all_rows()
    left = set().union(*map(pairs_of, rows))
    chosen = []

    def merit(row):
        return len(pairs_of(row) & left), -sum(row[i] == other[i] for other in chosen for i in range(len(row)))

    while left:
        chosen.append(max(rows, key=merit))
        left -= pairs_of(chosen[-1])
    return chosen


def models_of(rows):
    forms = itertools.cycle(TANH_FORMS)
    made = []
    for seed, row in enumerate(rows):
        fields = dict(zip(AXES, row))
        if fields["hidden_act"] == "tanh":
            fields["hidden_act"] = next(forms)
        made.append(Model(seed=seed, **fields))
    return made


def name_of(model):
    residual = "parallel" if model.parallel_residual else "sequential"
    head = "tied" if model.tied else "untied"
    return f"{residual}-{model.hidden_act}-d{model.head_dim}-r{model.rotary_pct}-b{model.rotary_base}-{head}"


def permitted_gap(norm, vocab, error=ERROR):
    """Where the peer's best two logits lie at most this far apart, its choice is within both engines' error."""
    return 2 * error * norm / vocab**0.5
