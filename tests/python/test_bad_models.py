# SPDX-License-Identifier: Apache-2.0
"""A folder that is no GPT-NeoX model, or a broken one, is refused at load with what was expected and what was found."""

import json

import pytest

import models
from models import PREFIX, Model
from neoxnative import Engine

TINY = Model(seed=1, heads=2, head_dim=16, max_positions=64)
EMBEDDING = PREFIX + "embed_in.weight"
UP = PREFIX + "layers.1.mlp.dense_h_to_4h.weight"


def refused(error, message, folder, **options):
    with pytest.raises(error, match=message):
        Engine(folder, **{"dtype": "float32", "device": "cpu", "num_threads": 1, **options})


# Folders and config.json


def test_what_is_no_model_folder_is_said(tmp_path):
    refused(FileNotFoundError, "no/such/folder", "no/such/folder")
    (tmp_path / "nothing").mkdir()
    models.write(TINY, tmp_path / "file")
    refused(FileNotFoundError, r"nothing has no config\.json, expected a model's folder: HuggingFace's .*-gpu", tmp_path / "nothing")
    refused(FileNotFoundError, r"config\.json is not a folder", tmp_path / "file" / "config.json")
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").write_text(json.dumps(models.config(TINY)))
    refused(FileNotFoundError, r"bare has no weights: expected model\.safetensors", tmp_path / "bare")


@pytest.mark.parametrize("text", ["", '{"model_type": "gpt_neox",', "[1, 2]", '"gpt_neox"', "\x00\x01", "[" * 100000])
@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "model.safetensors.index.json"])
def test_broken_json_is_told_with_its_file(name, text, tmp_path):
    models.write(TINY, tmp_path)
    (tmp_path / name).write_text(text)
    refused(ValueError, rf"{name}\b.* (JSON|weight_map)", tmp_path)


BAD_CONFIGS = {
    "model_type": [
        (None, ValueError, "model_type is missing, expected gpt_neox"),
        ("", NotImplementedError, "model_type is '', expected gpt_neox"),
        ("llama", NotImplementedError, "model_type is 'llama', expected gpt_neox"),
        ("stablelm", NotImplementedError, "model_type is 'stablelm'.*alpha v1"),
        ("gpt_neox_japanese", NotImplementedError, "'gpt_neox_japanese'.*abeja"),
        (7, ValueError, "model_type is 7, expected a string"),
    ],
    "num_hidden_layers": [
        (None, ValueError, "num_hidden_layers is missing, expected an integer"),
        (0, ValueError, "num_hidden_layers is 0, expected 1 to 1024"),
        (-1, ValueError, "num_hidden_layers is -1, expected 1 to 1024"),
        (10**12, ValueError, "num_hidden_layers is 1000000000000, expected 1 to 1024"),
        (2**63, ValueError, "num_hidden_layers is 9223372036854775808, expected 1 to 1024"),
        (10**30, ValueError, r"num_hidden_layers is 1e\+30, expected an integer"),
        (3, ValueError, r"layers\.2\.input_layernorm\.weight is missing"),
    ],
    "hidden_size": [
        (-32, ValueError, "hidden_size is -32, expected 8 to"),
        (32.0, ValueError, r"hidden_size is 32\.0, expected an integer"),
        ("32", ValueError, 'hidden_size is "32", expected an integer'),
        ([[[[32]]]], ValueError, r"hidden_size is \[\[\[\[32\]\]\]\], expected an integer"),
        (31, ValueError, "hidden_size 31 is not a multiple of num_attention_heads 2"),
        (24, ValueError, "head size .* is 12, expected a multiple of 8 up to 256"),
        (528, ValueError, "head size .* is 264, expected a multiple of 8 up to 256"),
        (64, ValueError, r"embed_in\.weight is \[131, 32\], expected \[131, 64\]"),
    ],
    "num_attention_heads": [
        (0, ValueError, "num_attention_heads is 0, expected 1 to"),
        (3, ValueError, "hidden_size 32 is not a multiple of num_attention_heads 3"),
        (True, ValueError, "num_attention_heads is true, expected an integer"),
    ],
    "intermediate_size": [(0, ValueError, "intermediate_size is 0"), (2**40, ValueError, "intermediate_size is 1099511627776")],
    "vocab_size": [(0, ValueError, "vocab_size is 0"), (132, ValueError, r"embed_in\.weight is \[131, 32\], expected \[132, 32\]")],
    "max_position_embeddings": [
        (0, ValueError, "max_position_embeddings is 0"),
        (10**9, ValueError, "max_position_embeddings is 1000000000"),
    ],
    "layer_norm_eps": [(0, ValueError, "layer_norm_eps is 0, expected more than 0"), ("tiny", ValueError, 'is "tiny", expected a number')],
    "hidden_act": [
        ("quick_gelu", NotImplementedError, "hidden_act is 'quick_gelu', expected gelu, gelu_new"),
        ("", NotImplementedError, "hidden_act is '', expected gelu"),
        (["gelu"], ValueError, r'hidden_act is \["gelu"\], expected a string'),
    ],
    "use_parallel_residual": [("yes", ValueError, 'use_parallel_residual is "yes", expected true or false')],
    "rope_parameters": [
        ([1], ValueError, r"rope_parameters is \[1\], expected an object"),
        ({"rope_type": "default", "partial_rotary_factor": 1.5}, ValueError, "rotary fraction is 1.5, expected 0 to 1"),
        ({"rope_type": "default", "rope_theta": 0.5}, ValueError, "rotary base is 0.5, expected more than 1"),
        *[({"rope_type": k}, NotImplementedError, f"rope_type is '{k}'") for k in ("linear", "dynamic", "yarn", "longrope", "llama3")],
    ],
    "rope_scaling": [
        ({"type": "linear", "factor": 2.0}, NotImplementedError, "rope_scaling: rope_type is 'linear', expected default"),
        ({"rope_type": "dynamic", "factor": 2.0}, NotImplementedError, "rope_scaling: rope_type is 'dynamic', expected default"),
    ],
    "eos_token_id": [
        (131, ValueError, "eos_token_id is 131, expected less than vocab_size 131"),
        ([0, 500], ValueError, "eos_token_id is 500, expected less than vocab_size 131"),
        (-1, ValueError, "eos_token_id is -1, expected a token id"),
        ("</s>", ValueError, 'eos_token_id is "</s>", expected a token id'),
        (list(range(17)), ValueError, "has 17 EOS ids, expected at most 16"),
    ],
}


@pytest.mark.parametrize(("field", "value", "error", "message"), [(field, *case) for field, cases in BAD_CONFIGS.items() for case in cases])
def test_a_config_field_is_told_with_what_it_may_be(field, value, error, message, tmp_path):
    refused(error, rf"(?s){tmp_path.name}.*{message}", models.write(TINY, tmp_path, **{field: value}))


# Safetensors


def with_header(folder, edit):
    """Rewrites the JSON header of model.safetensors: edit(header) changes it in place, or returns other text."""
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    end = 8 + int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8:end])
    text = edit(header)
    text = json.dumps(header).encode() if text is None else text
    file.write_bytes(len(text).to_bytes(8, "little") + text + whole[end:])
    return folder


def twice(header):
    text = json.dumps(header)
    entry = json.dumps(header[EMBEDDING])
    return f'{text[:-1]}, "{EMBEDDING}": {entry}}}'.encode()


BAD_HEADERS = {
    "no_json": (lambda h: b"not json", "header is not .*JSON"),
    "a_list": (lambda h: b"[]", "header is not a JSON object"),
    "deep": (lambda h: b'{"a":' + b"[" * 100000, "header is JSON nested more than 100 deep"),
    "key_twice": (twice, "header names 'gpt_neox.embed_in.weight' twice"),
    "overlap": (
        lambda h: h[UP].update(data_offsets=[h[UP]["data_offsets"][0] - 4, h[UP]["data_offsets"][1] - 4]),
        "two tensors overlap at byte",
    ),
    "past_the_end": (
        lambda h: h[UP].update(data_offsets=[10**9, 10**9 + 16384]),
        "data_offsets are .*but the file holds .* is it truncated",
    ),
    "backwards": (lambda h: h[UP]["data_offsets"].reverse(), "data_offsets are"),
    "negative": (lambda h: h[UP].update(data_offsets=[-1, 10]), r"data_offsets are \[-1,10\], expected \[begin, end\]"),
    "no_shape": (lambda h: h[UP].pop("shape") and None, "lacks dtype, shape or data_offsets"),
    "shape_of_text": (lambda h: h[UP].update(shape=["128", 32]), r'shape is \["128",32\], expected a list of sizes'),
    "huge_shape": (lambda h: h[UP].update(shape=[2**40, 2**40]), "has shape .*bytes, but its data_offsets span 16384"),
    "other_shape": (lambda h: h[UP].update(shape=[32, 128]), r"dense_h_to_4h\.weight is \[32, 128\], expected \[128, 32\]"),
    "one_dimension": (lambda h: h[UP].update(shape=[128 * 32]), r"dense_h_to_4h\.weight is \[4096\], expected \[128, 32\]"),
    "integers": (lambda h: h[UP].update(dtype="I64", shape=[64, 32]), r"dense_h_to_4h\.weight is of type \"I64\", expected F32, F16"),
    "unknown_dtype": (lambda h: h[UP].update(dtype=5), r"dense_h_to_4h\.weight is of type 5, expected F32, F16 or BF16"),
    "half_the_dtype": (lambda h: h[UP].update(dtype="F16"), "8192 bytes, but its data_offsets span 16384"),
    "missing": (lambda h: h.pop(UP) and None, r"tensor gpt_neox\.layers\.1\.mlp\.dense_h_to_4h\.weight is missing"),
    "missing_bias": (lambda h: h.pop(PREFIX + "layers.0.attention.dense.bias") and None, r"layers\.0\.attention\.dense\.bias is missing"),
    "missing_head": (lambda h: h.pop("embed_out.weight") and None, "embed_out.weight is missing"),
}


@pytest.mark.parametrize("case", BAD_HEADERS)
def test_a_bad_safetensors_header_is_told_by_file_or_tensor(case, tmp_path):
    edit, message = BAD_HEADERS[case]
    refused(ValueError, message, with_header(models.write(TINY, tmp_path), edit))


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        (0, "holds 0 bytes, expected at least the 8"),
        (5, "holds 5 bytes, expected at least the 8"),
        (8, r"header length is \d+, expected at most 0 \(the file holds 8 bytes\)"),
        (100, r"header length is \d+, expected at most 92 \(the file holds 100 bytes\)"),
        (-1, "is it truncated"),
        (-1000, "is it truncated"),
    ],
)
def test_a_truncated_file_is_told_with_what_it_holds(kept, message, tmp_path):
    file = models.write(TINY, tmp_path) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    refused(ValueError, rf"model\.safetensors.*{message}", tmp_path)


def index_of(folder, **changes):
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"] |= changes
    path.write_text(json.dumps(index))


def test_bad_shards_are_told_by_name(tmp_path):
    second = "model-00002-of-00003.safetensors"
    models.write(TINY, tmp_path, shards=3)
    index_of(tmp_path, a="../model.safetensors")
    refused(ValueError, r"the file of a is '\.\./model\.safetensors', expected a name in the same folder", tmp_path)
    index_of(tmp_path, a=7)
    refused(ValueError, "the file of a is 7, expected a file name", tmp_path)
    index_of(tmp_path, a=second)
    Engine(tmp_path)  # a name more in the index does no harm
    (tmp_path / second).rename(tmp_path / "elsewhere")
    refused(FileNotFoundError, f"{second}.*No such file", tmp_path)
    (tmp_path / second).mkdir()
    refused(ValueError, f"{second} is not a regular file", tmp_path)
    (tmp_path / second).rmdir()
    (tmp_path / second).write_bytes((tmp_path / second.replace("2-", "1-")).read_bytes())
    refused(ValueError, f"{second}: .* is also in another shard", tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    refused(ValueError, "is not an index: it has no weight_map", tmp_path)
