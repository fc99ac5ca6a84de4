# SPDX-License-Identifier: Apache-2.0
"""Training checkpoints of EleutherAI's GPT-NeoX open as they are, and give what HuggingFace's classes give with the same weights."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import models  # noqa: E402
import reference  # noqa: E402
import training  # noqa: E402
from models import PREFIX, Model  # noqa: E402
from neoxnative import Engine, _core  # noqa: E402
from neoxnative.convert import eleutherai  # noqa: E402

BASE = Model(seed=11, layers=3, heads=4, head_dim=16, intermediate=224, vocab=160, max_positions=64, rotary_pct=0.5, rotary_base=5000)
IDS = models.prompt(4, 24, BASE.vocab)


def huggingface(model, folder):
    transformers = pytest.importorskip("transformers")
    peer = transformers.GPTNeoXForCausalLM.from_pretrained(models.write(model, folder), dtype=torch.float32).eval()
    with torch.no_grad():
        return peer(torch.from_numpy(IDS[None].astype(np.int64))).logits[0].numpy()


def logits(folder, **options):
    return Engine(folder, **{"device": "cpu", "num_threads": 1, **options}).forward(IDS[None])[0]


@pytest.mark.parametrize("parallel", (True, False), ids=("parallel", "sequential"))
def test_any_number_of_source_ranks_gives_huggingfaces_logits(parallel, tmp_path):
    model = dataclasses.replace(BASE, parallel_residual=parallel)
    want = huggingface(model, tmp_path / "hf")
    for ranks in (1, 2, 4):
        folder = tmp_path / str(ranks)
        step = training.write(model, folder, ranks, zipped=ranks != 2)
        for place, options in ((folder, {}), (step, {"tensor_parallel_size": 2})):
            assert np.abs(logits(place, **options) - want).max() <= 1e-5 * max(1, np.abs(want).max()), f"{ranks} ranks, {place.name}"


def test_tied_embeddings_half_precision_and_an_attention_without_biases(tmp_path):
    model = dataclasses.replace(BASE, tied=True, attention_bias=False, parallel_residual=False)
    training.write(model, tmp_path, 2, torch.float16, use_bias_in_attn_linear="false")
    engine = Engine(tmp_path, device="cpu", num_threads=1)
    assert engine.info.dtype == "float16" and engine.info.tied_embedding and not engine.info.attention_bias
    named = {name: models.rounded(value, "float16") for name, value in models.tensors(model).items()}
    got = logits(tmp_path, dtype="float32")
    assert reference.relative_error(got, reference.forward(model, named, IDS)) <= 5e-6


def test_the_tensors_have_huggingfaces_names_shapes_and_values(tmp_path):
    training.write(BASE, tmp_path, 4)
    config = json.dumps(eleutherai.config(tmp_path))
    checkpoint = _core.Checkpoint(tmp_path, model_config=config)
    for name, value in models.tensors(BASE).items():
        assert checkpoint.shape(name) == value.shape
        np.testing.assert_allclose(checkpoint.read(name), value, rtol=1e-6, atol=1e-7)
        if not name.endswith(("attention.dense.bias", "4h_to_h.bias")):
            assert np.array_equal(checkpoint.read(name), value), name
    others = set(checkpoint.names()) - set(models.tensors(BASE))
    assert others == {f"{PREFIX}layers.{i}.attention.rotary_emb.inv_freq" for i in range(BASE.layers)}


def test_norms_that_drifted_apart_are_averaged(tmp_path):
    step = training.write(BASE, tmp_path, 2)
    file = step / training.file_name(2, 1)
    state = torch.load(file)
    state["input_layernorm.weight"] += 0.01
    torch.save(state, file)
    name = PREFIX + "layers.0.input_layernorm.weight"
    got = _core.Checkpoint(tmp_path, model_config=json.dumps(eleutherai.config(tmp_path))).read(name)
    np.testing.assert_allclose(got, models.tensors(BASE)[name] + 0.005, rtol=1e-6)


# The yml


def test_the_yml_becomes_huggingfaces_config(tmp_path):
    training.write(BASE, tmp_path, 2, torch.bfloat16, **{"bias-gelu-fusion": "true"})
    want = {
        "architectures": ["GPTNeoXForCausalLM"],
        "model_type": "gpt_neox",
        "vocab_size": 160,
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 224,
        "hidden_act": "gelu_fast",
        "max_position_embeddings": 64,
        "rotary_pct": 0.5,
        "rotary_emb_base": 5000,
        "layer_norm_eps": 1e-5,
        "use_parallel_residual": True,
        "attention_bias": True,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }
    assert eleutherai.config(tmp_path) == want == eleutherai.config(tmp_path / "global_step10")


def test_the_tokenizer_that_the_yml_names_is_the_engines(tmp_path):
    training.write(BASE, tmp_path, 1, **{"vocab-file": '"/data/tokenizers/my_tokenizer.json"'})
    vocab = {"<|endoftext|>": 0, "a": 1, "b": 2}
    tokenizer = {"version": "1.0", "added_tokens": [], "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "a"}}
    (tmp_path / "my_tokenizer.json").write_text(json.dumps(tokenizer))
    engine = Engine(tmp_path, device="cpu", num_threads=1)
    assert engine.tokenizer.encode("b") == [2] and engine.info.eos_token_ids == [0]


BAD_YMLS = {
    "alibi": ({"pos-emb": '"alibi"'}, NotImplementedError, r"model\.yml: pos_emb is 'alibi', expected 'learned' or 'rotary'"),
    "no_positions": ({"pos-emb": None}, NotImplementedError, "pos_emb is 'learned', expected 'rotary'"),
    "one_norm": ({"gpt-j-tied": "true"}, NotImplementedError, "gpt_j_tied is True, expected False"),
    "rmsnorm": ({"norm": '"rmsnorm"'}, NotImplementedError, "norm is 'rmsnorm', expected 'layernorm'"),
    "gated": ({"activation": '"geglu"'}, NotImplementedError, "activation is 'geglu', expected gelu"),
    "grouped": ({"num-kv-heads": 2}, NotImplementedError, "num_kv_heads is 2, expected 4"),
    "sparse": ({"attention-config": '[[["local", "global"], 2]]'}, NotImplementedError, "attention_config is .*expected global or flash"),
    "no_heads": ({"num-attention-heads": None}, ValueError, "num_attention_heads is missing, expected a number from 1 on"),
    "text": ({"hidden_size": '"wide"'}, ValueError, "hidden_size is 'wide', expected a number"),
    "layers": ({"num-layers": 4}, ValueError, r"has 3 transformer layers, the last of them in layer_04.*, expected num_hidden_layers 4"),
    "heads": ({"num-attention-heads": 3}, ValueError, "hidden_size 64 is not a multiple of num_attention_heads 3"),
    "width": ({"hidden_size": 32}, ValueError, r"embed_in\.weight is \[160, 64\], expected \[160, 32\]"),
}


@pytest.mark.parametrize("case", BAD_YMLS)
def test_what_the_engine_does_not_compute_is_refused_by_its_key(case, tmp_path):
    changes, error, message = BAD_YMLS[case]
    training.write(BASE, tmp_path, 1, **changes)
    with pytest.raises(error, match=message):
        Engine(tmp_path, device="cpu", num_threads=1)


def test_folders_that_lack_something_say_what(tmp_path):
    def refused(error, message, folder=tmp_path):
        with pytest.raises(error, match=message):
            Engine(folder, device="cpu", num_threads=1)

    step = training.write(BASE, tmp_path, 2)
    (tmp_path / "latest").write_text("global_step20")
    refused(ValueError, "latest says 'global_step20', but there are no files such as layer_00-model_00-model_states.pt in")
    (tmp_path / "latest").write_text("../elsewhere")
    refused(ValueError, r"latest says '\.\./elsewhere', expected the name of a folder beside it")
    (tmp_path / "latest").unlink()
    Engine(tmp_path, device="cpu", num_threads=1)  # there is one step
    shutil.copytree(step, tmp_path / "global_step20")
    refused(ValueError, r"has 2 steps \(global_step10 to global_step20\) and no file 'latest'")
    shutil.copy(tmp_path / "configs" / "model.yml", tmp_path / "configs" / "other.yml")
    Engine(step, device="cpu", num_threads=1)  # two that agree
    (tmp_path / "configs" / "other.yml").write_text("num_layers: 5")
    refused(ValueError, r"num_layers is 3 in .*model\.yml and 5 in .*other\.yml: expected the same", step)
    (tmp_path / "configs" / "other.yml").write_text("a: [")
    refused(ValueError, r"other\.yml is not YAML", step)
    shutil.rmtree(tmp_path / "configs")
    refused(FileNotFoundError, "no yml of the model's training: expected one in ", step)


def damage(step, index, rank, change):
    file = step / training.file_name(index, rank)
    state = torch.load(file)
    change(state)
    torch.save(state, file)


UP = "mlp.dense_h_to_4h.weight"
BAD_FILES = {
    "another_shape": (
        lambda s: s.update({UP: s[UP][:8]}),
        ValueError,
        rf"03-model_01.*: {UP} is \[8, 64\] in float32, expected \[112, 64\]",
    ),
    "another_type": (lambda s: s.update({UP: s[UP].half()}), ValueError, rf"03-model_01.*: {UP} is .* in float16, expected .* in float32"),
    "a_tensor_less": (lambda s: s.pop(UP), ValueError, rf"layer_03-model_01.* has no {UP}, which is in .*layer_03-model_00"),
    "a_tensor_more": (lambda s: s.update(more=s[UP]), ValueError, r"layer_03-model_00.* has no more, which is in .*layer_03-model_01"),
    "another_norm": (
        lambda s: s.update({"input_layernorm.bias": s["input_layernorm.bias"] + 1}),
        ValueError,
        r"layers\.1\.input_layernorm\.bias differs by up to 1.* between .*03-model_00.* and .*03-model_01.*are the files of one step",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_shards_that_do_not_fit_are_told_by_file_and_tensor(case, tmp_path):
    change, error, message = BAD_FILES[case]
    damage(training.write(BASE, tmp_path, 2), 3, 1, change)
    with pytest.raises(error, match=message):
        Engine(tmp_path, device="cpu", num_threads=1)


def test_missing_layers_and_shards_are_told(tmp_path):
    step = training.write(BASE, tmp_path, 2)
    (step / training.file_name(3, 1)).rename(step / "kept")
    with pytest.raises(FileNotFoundError, match=r"layer_03-model_01-model_states\.pt is missing: the checkpoint has files of 2"):
        Engine(tmp_path, device="cpu", num_threads=1)
    (step / training.file_name(3, 0)).unlink()
    with pytest.raises(FileNotFoundError, match=r"layer_03-model_00-model_states\.pt is missing: layer 1 of the model"):
        Engine(tmp_path, device="cpu", num_threads=1)


def test_a_config_beside_the_layer_files_is_all_that_the_library_needs(tmp_path):
    step = training.write(BASE, tmp_path, 2)
    with pytest.raises(FileNotFoundError, match="no config.json: write one with neoxnative convert --config-only"):
        _core.Checkpoint(tmp_path)
    (step / "config.json").write_text(json.dumps(eleutherai.config(step)))
    shutil.rmtree(tmp_path / "configs")
    assert len(_core.Checkpoint(tmp_path).names()) == len(models.tensors(BASE)) + BASE.layers
    assert np.array_equal(logits(tmp_path), logits(step))
