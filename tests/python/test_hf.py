# SPDX-License-Identifier: Apache-2.0
"""The engine against HuggingFace's logits and greedy tokens (tests/data/goldens.npz, made by tools/make_goldens.py)."""

from importlib.resources import files

import numpy as np
import pytest

import grid
import models
import reference
from neoxnative import Engine, SamplingParams

MODELS = grid.models_of(grid.pairwise_rows())
GREEDY = SamplingParams(max_tokens=grid.NEW_TOKENS, temperature=0, ignore_eos=True)


def assert_same_tokens(engine, prompts, golden, vocab):
    """Each prompt's greedy tokens are the peer's, save where the peer's best two lie within both engines' error.

    There the peer's token is fed and the comparison goes on. Returns the number of such steps.
    """
    outputs = engine.generate([ids.tolist() for ids in prompts], GREEDY)
    permitted = 0
    for ids, output, tokens, gaps, norms in zip(prompts, outputs, *golden):
        mine = np.array(output.outputs[0].token_ids)
        assert len(mine) == len(tokens)
        if np.array_equal(mine, tokens):
            continue
        fed = np.concatenate([ids, tokens[:-1]]).astype(np.int32)
        forced = engine.forward(fed[None])[0, len(ids) - 1 :].argmax(-1)
        first = int(np.argmax(mine != tokens))
        assert forced[first] == mine[first]
        for step in np.flatnonzero(forced != tokens):
            allowed = grid.permitted_gap(norms[step], vocab)
            assert gaps[step] <= allowed, f"prompt of {len(ids)}, step {step}: {forced[step]} for {tokens[step]}, gap {gaps[step]}"
            print(f"permitted: prompt of {len(ids)}, step {step}: {forced[step]} for {tokens[step]}, gap {gaps[step]:.1e}")
            permitted += 1
    return permitted


def test_the_generator_still_makes_the_golden_models(goldens):
    assert [models.digest(model) for model in MODELS] == goldens["digests"].tolist()


@pytest.mark.parametrize("index", range(len(MODELS)), ids=[grid.name_of(model) for model in MODELS])
def test_logits_and_greedy_tokens_are_huggingfaces(index, goldens, folder_of):
    model = MODELS[index]
    engine = Engine(folder_of(model), dtype="float32")
    ids = models.prompt(grid.PROMPT_SEED, max(grid.PROMPT_LENGTHS), model.vocab)
    logits = engine.forward(ids[None])[0]
    for length, want in zip(grid.PROMPT_LENGTHS, goldens["logits"][index]):
        assert reference.relative_error(logits[length - 1], want) <= grid.ERROR, f"at position {length - 1}"
    golden = [goldens[name][index] for name in ("tokens", "gaps", "norms")]
    permitted = assert_same_tokens(engine, [ids[:n] for n in grid.PROMPT_LENGTHS], golden, model.vocab)
    assert permitted <= 1  # of 512 tokens


def test_the_demo_model_answers_as_in_huggingface(goldens):
    folder = files("neoxnative") / "models/classics-7m"
    if not folder.is_dir():
        pytest.skip("this installation has no demo model")
    engine = Engine(str(folder), dtype="float32")
    vocab = goldens["demo_logits"].shape[1]
    ids = models.prompt(grid.PROMPT_SEED, int(goldens["demo_lengths"].max()), vocab)
    logits = engine.forward(ids[None])[0]
    for position, want in zip(goldens["demo_positions"], goldens["demo_logits"]):
        assert reference.relative_error(logits[position], want) <= grid.ERROR, f"at position {position}"
    golden = [goldens["demo_" + name] for name in ("tokens", "gaps", "norms")]
    assert assert_same_tokens(engine, [ids[:n] for n in goldens["demo_lengths"]], golden, vocab) <= 1
