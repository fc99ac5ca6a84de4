# SPDX-License-Identifier: Apache-2.0
"""What cannot be run as its authors meant is refused at load, by name."""

import json

import numpy as np
import pytest

import models
from models import PREFIX, Model
from neoxnative import Engine

TINY = Model(seed=1, heads=2, head_dim=16, max_positions=64)
REFUSED = (NotImplementedError, ValueError)


def assert_refused(folder, match, kinds=REFUSED):
    with pytest.raises(kinds, match=match):
        Engine(str(folder), dtype="float32")


@pytest.mark.parametrize("model_type", ("stablelm", "gpt_neox_japanese", "llama"))
def test_other_families_are_refused_by_name(model_type, tmp_path):
    assert_refused(models.write(TINY, tmp_path, model_type=model_type), model_type)


@pytest.mark.parametrize("hidden_act", ("quick_gelu", "swiglu", ""))
def test_an_unknown_activation_is_refused_by_name(hidden_act, tmp_path):
    assert_refused(models.write(TINY, tmp_path, hidden_act=hidden_act), f"hidden_act.*{hidden_act}")


@pytest.mark.parametrize("kind", ("linear", "dynamic", "yarn", "longrope", "llama3"))
def test_rope_scaling_is_refused_by_name_in_both_dialects(kind, tmp_path):
    new = {"rope_type": kind, "rope_theta": 10000.0, "partial_rotary_factor": 0.25, "factor": 2.0}
    assert_refused(models.write(TINY, tmp_path / "new", rope_parameters=new), kind)
    for key in ("type", "rope_type"):
        old = {key: kind, "factor": 2.0}
        assert_refused(models.write(TINY, tmp_path / key, dialect="rotary_pct", rope_scaling=old), kind)


@pytest.mark.parametrize("missing", ("layers.1.mlp.dense_4h_to_h.weight", "layers.0.attention.dense.bias", "embed_in.weight"))
def test_a_missing_tensor_is_named(missing, tmp_path):
    named = models.tensors(TINY)
    del named[PREFIX + missing]
    assert_refused(models.write(TINY, tmp_path, named=named), missing)


def test_a_missing_head_is_named(tmp_path):
    named = models.tensors(TINY)
    del named["embed_out.weight"]
    assert_refused(models.write(TINY, tmp_path, named=named), "embed_out.weight")


def test_a_wrong_shape_is_told_with_the_shape_expected(tmp_path):
    name = PREFIX + "layers.1.mlp.dense_h_to_4h.weight"
    named = models.tensors(TINY) | {name: np.zeros((127, 32), np.float32)}
    assert_refused(models.write(TINY, tmp_path, named=named), r"dense_h_to_4h\.weight.*127.*32.*128.*32")


@pytest.mark.parametrize("kept", (0, 5, 8, 100, -1, -1000))
def test_a_truncated_file_is_refused_by_name(kept, tmp_path):
    file = models.write(TINY, tmp_path) / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:kept])
    assert_refused(tmp_path, "model.safetensors", (*REFUSED, RuntimeError))


def test_a_shard_that_is_not_there_is_named(tmp_path):
    models.write(TINY, tmp_path, shards=3)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    assert_refused(tmp_path, "model-00002-of-00003", (*REFUSED, FileNotFoundError))


def test_heads_that_do_not_divide_the_hidden_size_are_refused(tmp_path):
    assert_refused(models.write(TINY, tmp_path, num_attention_heads=3), "num_attention_heads|hidden_size")


@pytest.mark.parametrize("field", ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"))
@pytest.mark.parametrize("value", (0, -1, "many"))
def test_sizes_that_make_no_sense_are_refused_by_field(field, value, tmp_path):
    assert_refused(models.write(TINY, tmp_path, **{field: value}), field)


def test_a_folder_that_is_not_there_is_not_found(tmp_path):
    assert_refused(tmp_path / "nowhere", "nowhere", FileNotFoundError)


def test_a_folder_without_weights_is_not_found(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(models.config(TINY)))
    assert_refused(tmp_path, "safetensors", (FileNotFoundError, ValueError))


def test_broken_json_is_told_with_its_file(tmp_path):
    models.write(TINY, tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "gpt_neox",')
    assert_refused(tmp_path, "config.json")
