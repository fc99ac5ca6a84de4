# SPDX-License-Identifier: Apache-2.0
"""FasterTransformer's folders, written here by arithmetic of the tests' own, as the engine reads them."""

import dataclasses
import json

import numpy as np
import pytest

import checkpoints
import models
import reference
from models import Model
from neoxnative import Engine, _core
from neoxnative.convert import to_ft, to_hf

# FasterTransformer's only activation, and sizes that it would have had too.
PARALLEL = Model(seed=3, heads=4, head_dim=16, intermediate=96, max_positions=64, hidden_act="gelu_new")
SEQUENTIAL = dataclasses.replace(PARALLEL, seed=4, parallel_residual=False)
LENGTH = 40


def logits(folder, model, **options):
    return Engine(folder, device="cpu", **options).forward(models.prompt(9, LENGTH, model.vocab)[None])[0]


def assert_agrees(folder, model, error=1e-5, named=None, **options):
    want = reference.forward(model, models.tensors(model) if named is None else named, models.prompt(9, LENGTH, model.vocab))
    assert reference.relative_error(logits(folder, model, **options), want) <= error


@pytest.mark.parametrize("model", (PARALLEL, SEQUENTIAL), ids=("parallel", "sequential"))
@pytest.mark.parametrize("ranks", (1, 2, 4))
def test_a_folder_cut_for_any_number_of_ranks_is_the_same_model(model, ranks, tmp_path):
    assert_agrees(checkpoints.write_ft(model, tmp_path, ranks), model)


@pytest.mark.parametrize("ranks", (1, 2, 4))
def test_a_folder_cut_for_two_ranks_runs_on_any_number(ranks, tmp_path):
    for model in (PARALLEL, SEQUENTIAL):
        folder = checkpoints.write_ft(model, tmp_path / str(model.seed), 2)
        assert_agrees(folder, model, tensor_parallel_size=ranks)


def test_the_sum_of_biases_is_multiplied_back_for_ranks_that_are_no_power_of_two(tmp_path):
    model = dataclasses.replace(PARALLEL, heads=3, intermediate=99)
    assert_agrees(checkpoints.write_ft(model, tmp_path, 3), model)


@pytest.mark.parametrize("dtype, stored", (("fp16", "float16"), ("bf16", "bfloat16")))
def test_16_bit_files_open_in_their_own_type_and_in_float32(dtype, stored, tmp_path):
    folder = checkpoints.write_ft(SEQUENTIAL, tmp_path, 2, dtype)
    named = {name: models.rounded(value, stored) for name, value in models.tensors(SEQUENTIAL).items()}
    assert_agrees(folder, SEQUENTIAL, named=named, dtype="float32")
    assert Engine(folder, device="cpu").info.dtype == stored


def test_the_folder_above_is_searched_for_the_asked_ranks_and_else_for_the_fewest(tmp_path):
    for ranks in (2, 4):
        checkpoints.write_ft(PARALLEL, tmp_path, ranks)
    (tmp_path / "1-gpu").mkdir()  # without a config.ini it is none
    (tmp_path / "2-gpu.partial").mkdir()
    assert Engine(tmp_path, device="cpu").info.model == str(tmp_path / "2-gpu")
    assert Engine(tmp_path, device="cpu", tensor_parallel_size=4).info.model == str(tmp_path / "4-gpu")


def test_a_folder_of_another_name_is_counted(tmp_path):
    folder = checkpoints.write_ft(PARALLEL, tmp_path, 4).rename(tmp_path / "renamed")
    assert_agrees(folder, PARALLEL)


def test_keys_that_ft_does_not_know_and_those_of_its_example(tmp_path):
    model = dataclasses.replace(PARALLEL, hidden_act="gelu", layer_norm_eps=0.1, rotary_base=25000)
    more = {"hidden_act": "gelu", "layernorm_eps": 0.1, "rotary_emb_base": 25000, "max_position_embeddings": 48}
    folder = checkpoints.write_ft(model, tmp_path, 1, num_layer=None, decoder_layers=2, **more)
    text = (folder / "config.ini").read_text().replace("[gptneox]", "[gptneox_20B]")
    (folder / "config.ini").write_text("[ft_instance_hyperparameter]\nmodel_name=gptneox_20B\n" + text)
    assert_agrees(folder, model)
    assert Engine(folder, device="cpu").info.max_positions == 48


def test_a_folder_without_keys_of_ours_has_fasters_constants(tmp_path):
    info = Engine(checkpoints.write_ft(PARALLEL, tmp_path, 1, end_id=5), device="cpu").info
    assert (info.hidden_act, info.layer_norm_eps, info.rotary_base, info.max_positions) == ("gelu_new", 1e-5, 10000, 2048)
    assert info.eos_token_ids == [5] and info.attention_bias and not info.tied_embedding


@pytest.mark.parametrize(
    ("end_id", "generation", "expected"),
    [(5, None, [5]), (5, [5, 7], [5, 7]), (5, [7, 5], [7, 5]), (6, [5, 7], [6]), (-1, None, []), (-1, 5, []), (5, [], [5]), (None, 7, [7])],
)
def test_end_id_ends_a_text_with_the_ids_that_it_is_among(end_id, generation, expected, tmp_path):
    folder = checkpoints.write_ft(PARALLEL, tmp_path, 1, end_id=end_id)
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": generation}))
    assert Engine(folder, device="cpu").info.eos_token_ids == expected
    if end_id is not None:
        for to in (to_ft, to_hf):  # in either format the same ones do
            to(folder, tmp_path / to.__name__)
            assert sorted(Engine(tmp_path / to.__name__, device="cpu").info.eos_token_ids) == sorted(expected)


QKV = "model.layers.1.attention.query_key_value.weight.1.bin"


@pytest.mark.parametrize("change, error, message", (
    (lambda file: file.unlink(), FileNotFoundError, "is missing, expected a file of 24576 bytes"),
    (lambda file: file.write_bytes(file.read_bytes()[:-4]), ValueError, "holds 24572 bytes, expected 24576"),
    (lambda file: file.write_bytes(file.read_bytes() + b"\0"), ValueError, "holds 24577 bytes, expected 24576"),
    (lambda file: file.write_bytes(b""), ValueError, "holds 0 bytes, expected 24576"),
))  # fmt: skip
def test_a_missing_short_or_long_file_is_refused_by_name(change, error, message, tmp_path):
    folder = checkpoints.write_ft(PARALLEL, tmp_path, 2)
    change(folder / QKV)
    with pytest.raises(error, match=rf"2-gpu/{QKV} {message}"):
        Engine(folder, device="cpu")


@pytest.mark.parametrize("name", ("model.wte", "model.layers.0.mlp.attention.bias.sum", "model.layers.1.mlp.dense_4h_to_h.weight.0"))
def test_every_kind_of_file_is_needed(name, tmp_path):
    folder = checkpoints.write_ft(PARALLEL, tmp_path, 1, without=(name + ".bin",))
    with pytest.raises(FileNotFoundError, match=name):
        Engine(folder, device="cpu")


@pytest.mark.parametrize("keys, error, message", (
    ({"num_layer": 1}, ValueError, r"layers\.1\.input_layernorm\.weight\.bin is there, but config.ini's num_layer is 1"),
    ({"num_layer": None}, ValueError, r"\[gptneox\] decoder_layers is missing"),
    ({"head_num": "four"}, ValueError, r"config.ini:2: \[gptneox\] head_num: expected an integer .* found 'four'"),
    ({"head_num": 3}, ValueError, "holds .* bytes, expected"),
    ({"size_per_head": 12}, ValueError, "size_per_head: expected a multiple of 8"),
    ({"weight_data_type": "int8"}, ValueError, "weight_data_type: expected fp32, fp16 or bf16, found 'int8'"),
    ({"weight_data_type": "fp16"}, ValueError, "holds .* bytes, expected .* float16"),
    ({"use_gptj_residual": 0}, FileNotFoundError, r"attention\.dense\.bias\.bin is missing"),
    ({"hidden_act": "mish"}, NotImplementedError, "hidden_act is 'mish'"),
    ({"rotary_embedding": 17}, ValueError, "rotary_embedding: expected 0 to 16"),
    ({"end_id": 131}, ValueError, "end_id: expected -1 to 130"),
    ({"layernorm_eps": 0}, ValueError, "layernorm_eps: expected a number above 0"),
))  # fmt: skip
def test_a_config_that_cannot_be_is_told_with_its_key(keys, error, message, tmp_path):
    folder = checkpoints.write_ft(PARALLEL, tmp_path, 1)
    (folder / "config.ini").write_text(checkpoints.ft_config(PARALLEL, **{**keys}) if "weight_data_type" not in keys else
                                       checkpoints.ft_config(PARALLEL, keys["weight_data_type"]))  # fmt: skip
    with pytest.raises(error, match=message):
        Engine(folder, device="cpu")


def test_ranks_that_do_not_divide_the_heads_are_told(tmp_path):
    folder = checkpoints.write_ft(PARALLEL, tmp_path, 1).rename(tmp_path / "3-gpu")
    with pytest.raises(ValueError, match="is cut for 3 ranks, expected a divisor of head_num 4 and inter_size 96"):
        Engine(folder, device="cpu")


def test_load_format_ft_wants_such_a_folder(folder_of, tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder of FasterTransformer's: expected config.ini"):
        Engine(folder_of(PARALLEL), load_format="ft")
    assert_agrees(checkpoints.write_ft(PARALLEL, tmp_path, 1), PARALLEL, load_format="ft")


def test_biases_kept_beside_their_sum_come_back_one_by_one_only_if_they_add_up_to_it(tmp_path):
    named = models.tensors(PARALLEL)
    folder = checkpoints.write_ft(PARALLEL, tmp_path, 2)
    names = [f"gpt_neox.layers.1.{part}.bias" for part in ("attention.dense", "mlp.dense_4h_to_h")]
    files = checkpoints.ft_files(PARALLEL, named, 2)
    attention, mlp = (_core.Checkpoint(folder).read(name) for name in names)
    assert not attention.any() and np.allclose(mlp, named[names[0]] + named[names[1]], rtol=1e-6)
    for part in ("attention.dense", "mlp.dense_4h_to_h"):
        (folder / f"model.layers.1.{part}.bias.bin").write_bytes(files[f"model.layers.1.{part}.bias.bin"].tobytes())
    attention, mlp = (_core.Checkpoint(folder).read(name) for name in names)
    assert np.array_equal(attention, named[names[0]]) and np.array_equal(mlp, named[names[1]])
    (folder / "model.layers.1.attention.dense.bias.bin").write_bytes(files["model.layers.0.attention.dense.bias.bin"].tobytes())
    assert not _core.Checkpoint(folder).read(names[0]).any()
    assert_agrees(folder, PARALLEL)
