# SPDX-License-Identifier: Apache-2.0
"""Every checkpoint form that the family comes in, against the float64 model of reference.py."""

import dataclasses

import numpy as np
import pytest

import models
import reference
from models import Model
from neoxnative import Engine

TINY = Model(seed=1, heads=2, head_dim=16, max_positions=64)
LENGTH = 40
ERROR = 5e-6


def assert_agrees(folder, model, named=None, error=ERROR, **options):
    ids = models.prompt(9, LENGTH, model.vocab)
    want = reference.forward(model, models.tensors(model) if named is None else named, ids)
    got = Engine(folder, **{"dtype": "float32", **options}).forward(ids[None])
    assert got.shape == (1, LENGTH, model.vocab) and got.dtype == np.float32
    assert reference.relative_error(got[0], want) <= error


def variant(**fields):
    return dataclasses.replace(TINY, **fields)


# Checkpoint forms


@pytest.mark.parametrize("dialect", ("rope_parameters", "rotary_pct"))
@pytest.mark.parametrize("rotary", ((0.25, 10000), (0.5, 25000), (1.0, 10000)))
def test_the_rotary_embedding_is_read_in_both_dialects(dialect, rotary, folder_of):
    model = variant(rotary_pct=rotary[0], rotary_base=rotary[1])
    assert_agrees(folder_of(model, dialect=dialect), model)


def test_a_config_without_rotary_fields_has_huggingfaces_defaults(tmp_path):
    model = variant(rotary_pct=0.25, rotary_base=10000)
    assert_agrees(str(models.write(model, tmp_path, rope_parameters=None)), model)


def test_empty_rope_scaling_is_no_scaling(tmp_path):
    models.write(TINY, tmp_path, dialect="rotary_pct")
    text = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(text.rstrip().removesuffix("}") + ', "rope_scaling": null}')
    assert_agrees(str(tmp_path), TINY)


@pytest.mark.parametrize("shards", (2, 5))
def test_a_sharded_checkpoint_is_one_model(shards, folder_of):
    assert_agrees(folder_of(TINY, shards=shards), TINY)


@pytest.mark.parametrize("head_name", ("embed_out.weight", "lm_head.weight"))
def test_the_head_is_found_under_both_names(head_name, folder_of):
    assert_agrees(folder_of(TINY, head_name=head_name), TINY)


def test_a_tied_head_is_the_embedding(folder_of):
    model = variant(tied=True)
    assert_agrees(folder_of(model), model)


@pytest.mark.parametrize("head_name", ("embed_out.weight", "lm_head.weight"))
def test_a_tied_models_file_may_hold_the_head_too(head_name, tmp_path):
    model = variant(tied=True)
    named = models.tensors(model)
    copy = {head_name: named[models.PREFIX + "embed_in.weight"]}
    assert_agrees(str(models.write(model, tmp_path, named=named | copy)), model, named)


def test_attention_without_biases(folder_of):
    model = variant(attention_bias=False)
    assert_agrees(folder_of(model), model)


def test_buffers_of_old_checkpoints_are_ignored(tmp_path):
    named = models.tensors(TINY)
    layer = models.PREFIX + "layers.0.attention."
    stray = {
        layer + "masked_bias": np.float32(-1e9).reshape(()),
        layer + "bias": np.ones((1, 1, 4, 4), np.float32),
        layer + "rotary_emb.inv_freq": np.ones(2, np.float32),
    }
    assert_agrees(str(models.write(TINY, tmp_path, named=named | stray)), TINY, named)


@pytest.mark.parametrize("stored", ("float16", "bfloat16"))
def test_a_16_bit_checkpoint_opens_in_float32(stored, folder_of):
    named = {name: models.rounded(value, stored) for name, value in models.tensors(TINY).items()}
    assert_agrees(folder_of(TINY, dtype=stored), TINY, named)


@pytest.mark.parametrize("dtype, with_kv", (("float16", 2e-3), ("bfloat16", 2e-2)))
def test_16_bit_weights_and_pages_cost_their_own_rounding_only(dtype, with_kv, folder_of):
    named = {
        name: models.rounded(value, dtype) if name.endswith(".weight") and value.ndim == 2 else value
        for name, value in models.tensors(TINY).items()
    }
    assert_agrees(folder_of(TINY), TINY, named, device="cpu", dtype=dtype, kv_cache_dtype="float32")
    assert_agrees(folder_of(TINY), TINY, named, with_kv, device="cpu", dtype=dtype)


# Architectures


@pytest.mark.parametrize("hidden_act", reference.ACTIVATIONS)
@pytest.mark.parametrize("parallel", (True, False))
def test_every_activation_in_both_residual_forms(hidden_act, parallel, folder_of):
    model = variant(hidden_act=hidden_act, parallel_residual=parallel)
    assert_agrees(folder_of(model), model)


@pytest.mark.parametrize("head_dim", range(8, 257, 8))
def test_every_head_size(head_dim, folder_of):
    model = variant(head_dim=head_dim, intermediate=3 * head_dim, parallel_residual=head_dim % 16 == 0)
    assert_agrees(folder_of(model), model)


@pytest.mark.parametrize("heads", (1, 3, 7))
def test_odd_head_counts(heads, folder_of):
    model = variant(heads=heads)
    assert_agrees(folder_of(model), model)


@pytest.mark.parametrize("vocab", (1, 7, 131, 257, 1000))
def test_any_vocabulary_size(vocab, folder_of):
    model = variant(vocab=vocab)
    assert_agrees(folder_of(model), model)


@pytest.mark.parametrize("head_dim, pct", ((16, 0.2), (24, 0.4), (32, 0.25 + 1 / 32), (40, 0.68), (64, 0.99), (8, 0.9)))
def test_odd_rotary_widths_turn_one_more(head_dim, pct, folder_of):
    # int(head_dim * pct) odd: HuggingFace has (n + 1) / 2 frequencies over n, so n + 1 elements turn.
    model = variant(head_dim=head_dim, rotary_pct=pct)
    assert int(head_dim * pct) % 2 == 1
    assert_agrees(folder_of(model), model)


@pytest.mark.parametrize("intermediate", (1, 33, 250))
def test_any_intermediate_size(intermediate, folder_of):
    model = variant(intermediate=intermediate)
    assert_agrees(folder_of(model), model)


@pytest.mark.parametrize("layers", (1, 5))
def test_any_depth(layers, folder_of):
    model = variant(layers=layers)
    assert_agrees(folder_of(model), model)


def test_the_norms_epsilon_is_the_models(folder_of):
    model = variant(layer_norm_eps=0.1)
    assert_agrees(folder_of(model), model)
