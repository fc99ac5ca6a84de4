# SPDX-License-Identifier: Apache-2.0
"""The converters: every byte of FasterTransformer's layout against arithmetic of the tests' own, and the way back."""

import configparser
import dataclasses
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import checkpoints
import models
import reference
from models import PREFIX, Model
from neoxnative import Engine, _core
from neoxnative.convert import to_ft, to_hf
from neoxnative.convert.jp import open_jp_source
from neoxnative.convert.prompts import open_prompt, task_name
from neoxnative.convert.shape import shape_of_config
from neoxnative.convert.source import shapes

PARALLEL = Model(seed=3, heads=4, head_dim=16, intermediate=96, max_positions=64, rotary_pct=0.5)
SEQUENTIAL = dataclasses.replace(PARALLEL, seed=4, parallel_residual=False)
MODELS = pytest.mark.parametrize("model", (PARALLEL, SEQUENTIAL), ids=("parallel", "sequential"))
TOOLS = Path(__file__).resolve().parents[2] / "tools"


MEASURED = """import sys
from neoxnative.cli import main
code = main(sys.argv[1:])
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
sys.exit(code)"""


def script(name, *arguments, check=True):
    done = subprocess.run([sys.executable, TOOLS / name, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False)
    assert not check or done.returncode == 0, done.stderr
    return done


def stored(array, dtype):
    return models.to_bf16(array).tobytes() if dtype == "bfloat16" else array.astype(dtype).tobytes()


@MODELS
@pytest.mark.parametrize("ranks", (1, 2, 4))
def test_every_file_holds_what_ft_reads(model, ranks, folder_of, tmp_path):
    report = to_ft(folder_of(model), tmp_path, ranks=ranks)
    want = checkpoints.ft_files(model, models.tensors(model), ranks)
    found = checkpoints.contents(tmp_path / f"{ranks}-gpu")
    assert found.keys() == want.keys()
    for name, array in want.items():
        assert found[name] == np.ascontiguousarray(array).tobytes(), name
    assert report.folder == tmp_path / f"{ranks}-gpu" and report.left_out == []


@pytest.mark.parametrize("dtype", ("float16", "bfloat16"))
def test_16_bit_files_hold_rounded_values_and_biases_in_arithmetic_of_their_type(dtype, folder_of, tmp_path):
    to_ft(folder_of(PARALLEL), tmp_path, ranks=2, dtype=dtype)
    named = models.tensors(PARALLEL)
    found = checkpoints.contents(tmp_path / "2-gpu")
    for name, array in checkpoints.ft_files(PARALLEL, named, 2).items():
        if not name.endswith("sum.bin"):
            assert found[name] == stored(array, dtype), name  # a half of a value is rounded as the value is
    half = [models.rounded(named[f"{PREFIX}layers.0.{part}.bias"], dtype) / 2 for part in ("attention.dense", "mlp.dense_4h_to_h")]
    assert found["model.layers.0.mlp.attention.bias.sum.bin"] == stored(half[0] + half[1], dtype)


@pytest.mark.parametrize("kept", ("float16", "bfloat16"))
def test_the_type_is_the_sources_unless_asked_for(kept, folder_of, tmp_path):
    to_ft(folder_of(SEQUENTIAL, dtype=kept), tmp_path / "kept")
    name = "model.layers.0.mlp.dense_h_to_4h.weight.0.bin"
    weight = models.tensors(SEQUENTIAL)[PREFIX + "layers.0.mlp.dense_h_to_4h.weight"]
    assert (tmp_path / "kept/1-gpu" / name).read_bytes() == stored(np.ascontiguousarray(weight.T), kept)
    to_ft(folder_of(SEQUENTIAL, dtype=kept), tmp_path / "wide", dtype="float32")
    assert (tmp_path / "wide/1-gpu" / name).read_bytes() == np.ascontiguousarray(models.rounded(weight.T, kept)).tobytes()


def test_config_ini_is_the_models(folder_of, tmp_path):
    model = dataclasses.replace(SEQUENTIAL, hidden_act="gelu_fast", layer_norm_eps=1e-6, rotary_base=25000)
    to_ft(folder_of(model), tmp_path, ranks=2, dtype="float16", model_name="tiny")
    ini = configparser.ConfigParser()
    ini.read(tmp_path / "2-gpu/config.ini")
    assert ini.sections() == ["gptneox"]
    ft = ["model_name", "head_num", "size_per_head", "inter_size", "num_layer", "rotary_embedding", "vocab_size", "start_id", "end_id",
          "use_gptj_residual", "weight_data_type"]  # fmt: skip
    assert list(ini["gptneox"])[: len(ft)] == ft
    assert [ini["gptneox"][key] for key in ft] == ["tiny", "4", "16", "96", "2", "8", "131", "0", "0", "0", "fp16"]
    ours = {key: ini["gptneox"][key] for key in list(ini["gptneox"])[len(ft) :]}
    assert ours == {"hidden_act": "gelu_fast", "layernorm_eps": "1e-06", "rotary_emb_base": "25000.0", "max_position_embeddings": "64"}


@MODELS
@pytest.mark.parametrize("ranks", (1, 2, 4))
def test_a_converted_model_gives_the_same_logits(model, ranks, folder_of, tmp_path):
    to_ft(folder_of(model), tmp_path, ranks=ranks)
    ids = models.prompt(9, 40, model.vocab)
    want = reference.forward(model, models.tensors(model), ids)
    assert reference.relative_error(Engine(tmp_path, device="cpu").forward(ids[None])[0], want) <= 1e-5


def test_a_converted_model_gives_huggingfaces_logits(folder_of, tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    for model in (PARALLEL, SEQUENTIAL):
        ids = models.prompt(9, 40, model.vocab)
        peer = transformers.GPTNeoXForCausalLM.from_pretrained(folder_of(model), dtype=torch.float32)
        with torch.no_grad():
            want = peer(torch.from_numpy(ids.astype(np.int64))[None]).logits[0].numpy()
        for ranks in (1, 2, 4):
            to_ft(folder_of(model), tmp_path / str(model.seed), ranks=ranks)
            for tensor_parallel in (1, 2, 4):
                engine = Engine(tmp_path / str(model.seed) / f"{ranks}-gpu", device="cpu", tensor_parallel_size=tensor_parallel)
                assert reference.relative_error(engine.forward(ids[None])[0], want) <= 1e-5, (ranks, tensor_parallel)


@MODELS
def test_the_way_to_ft_and_back_changes_no_bit(model, folder_of, tmp_path):
    to_ft(folder_of(model), tmp_path / "ft", ranks=4)
    to_ft(tmp_path / "ft", tmp_path / "ft", ranks=2)  # and from one cut to another
    to_hf(tmp_path / "ft/2-gpu", tmp_path / "hf")
    again = tmp_path / "again"
    to_ft(tmp_path / "hf", again, ranks=4)
    assert checkpoints.contents(again / "4-gpu") == checkpoints.contents(tmp_path / "ft/4-gpu")
    ids = models.prompt(9, 40, model.vocab)
    same = [Engine(folder, device="cpu").forward(ids[None]) for folder in (folder_of(model), tmp_path / "hf")]
    assert np.array_equal(*same)


def test_huggingface_reads_what_is_written_for_it(folder_of, tmp_path):
    transformers = pytest.importorskip("transformers")
    to_ft(folder_of(SEQUENTIAL), tmp_path, ranks=2)
    to_hf(tmp_path, tmp_path / "hf")
    peer, loading = transformers.GPTNeoXForCausalLM.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not any(loading[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    state = peer.state_dict() | {"embed_out.weight": peer.get_output_embeddings().weight.detach()}
    for name, array in models.tensors(SEQUENTIAL).items():
        assert np.array_equal(state[name].numpy(), array), name


def test_shards_are_one_model(folder_of, tmp_path, monkeypatch):
    monkeypatch.setattr("neoxnative.convert.safetensors.SHARD_BYTES", 50_000)
    to_hf(folder_of(PARALLEL), tmp_path / "hf", dtype="bfloat16")
    shards = sorted((tmp_path / "hf").glob("model-*.safetensors"))
    assert len(shards) > 3
    index = json.loads((tmp_path / "hf/model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(models.tensors(PARALLEL)) and set(index["weight_map"].values()) == {file.name for file in shards}
    named = {name: models.rounded(value, "bfloat16") for name, value in models.tensors(PARALLEL).items()}
    ids = models.prompt(9, 40, PARALLEL.vocab)
    engine = Engine(tmp_path / "hf", dtype="float32", device="cpu")
    assert reference.relative_error(engine.forward(ids[None])[0], reference.forward(PARALLEL, named, ids)) <= 1e-5


# What FasterTransformer's scripts got wrong


def test_a_tied_head_is_exported(folder_of, tmp_path):
    model = dataclasses.replace(PARALLEL, tied=True)
    to_ft(folder_of(model), tmp_path)
    found = checkpoints.contents(tmp_path / "1-gpu")
    assert found["model.lm_head.weight.bin"] == found["model.wte.bin"]
    to_hf(folder_of(model), tmp_path / "hf")
    assert json.loads((tmp_path / "hf/config.json").read_text())["tie_word_embeddings"] is True
    ids = models.prompt(9, 40, model.vocab)
    engines = [Engine(folder, device="cpu") for folder in (folder_of(model), tmp_path, tmp_path / "hf")]
    assert all(np.array_equal(engine.forward(ids[None]), engines[0].forward(ids[None])) for engine in engines)


def test_attention_without_biases_becomes_biases_of_zero(folder_of, tmp_path):
    model = dataclasses.replace(PARALLEL, attention_bias=False)
    to_ft(folder_of(model), tmp_path, ranks=2)
    want = checkpoints.ft_files(model, models.tensors(model), 2)
    assert checkpoints.contents(tmp_path / "2-gpu") == {name: np.ascontiguousarray(array).tobytes() for name, array in want.items()}


@pytest.mark.parametrize("name", ("embed_out.bias", "lm_head.bias", PREFIX + "wpe.weight"))
def test_a_parameter_that_the_format_cannot_hold_is_refused_unless_it_is_zero(name, tmp_path):
    named = models.tensors(PARALLEL)
    models.write(PARALLEL, tmp_path / "zero", named=named | {name: np.zeros((131,), np.float32)})
    assert to_ft(tmp_path / "zero", tmp_path / "out").left_out == []
    one = np.zeros((131,), np.float32)
    one[7] = 1e-3
    models.write(PARALLEL, tmp_path / "one", named=named | {name: one})
    with pytest.raises(ValueError, match=f"{name} is not zero, and GPT-NeoX has no such parameter"):
        to_ft(tmp_path / "one", tmp_path / "refused")
    assert not (tmp_path / "refused").exists()


def test_several_eos_ids_and_the_tokenizer_come_along(tmp_path):
    models.write(PARALLEL, tmp_path / "hf", eos_token_id=[5, 7])
    (tmp_path / "hf/tokenizer_config.json").write_text("{}")
    to_ft(tmp_path / "hf", tmp_path)
    assert Engine(tmp_path, device="cpu").info.eos_token_ids == [5, 7]
    assert (tmp_path / "1-gpu/tokenizer_config.json").read_text() == "{}"
    assert "end_id = 5\n" in (tmp_path / "1-gpu/config.ini").read_text()


@pytest.mark.parametrize("to", (to_ft, to_hf))
@pytest.mark.parametrize(("eos", "generation"), ((None, None), (0, None), (0, 7), ([5, 7], None), (None, 5)))
def test_what_ends_a_text_is_the_same_in_every_format(to, eos, generation, tmp_path):
    models.write(PARALLEL, tmp_path / "hf", eos_token_id=eos)
    if generation is not None:
        (tmp_path / "hf/generation_config.json").write_text(json.dumps({"eos_token_id": generation}))
    report = to(tmp_path / "hf", tmp_path / "out")
    expected = Engine(tmp_path / "hf", device="cpu").info.eos_token_ids
    assert Engine(tmp_path / "out", device="cpu").info.eos_token_ids == expected
    assert report.warnings == (["no end-of-text id is known: end_id is -1, which ends no text"] if to is to_ft and not expected else [])


# The scripts


@MODELS
@pytest.mark.parametrize("kind", ("fp32", "fp16"))
def test_the_scripts_agree_byte_for_byte(model, kind, folder_of, tmp_path):
    common = ("-i_g", 2, "-weight_data_type", kind, "-m_n", "tiny", "-p", 2)
    script("huggingface_gptneox_convert.py", "-o", tmp_path / "a", "-i", folder_of(model), *common)
    old = checkpoints.write_jp(model, tmp_path / "old")
    done = script("huggingface_jp_gptneox_convert.py", "-saved_dir", tmp_path / "b", "-in_file", old, *common)
    assert "infer_gpu_num: 2\n" in done.stdout and "wrote " in done.stdout
    found = checkpoints.contents(tmp_path / "a/2-gpu")
    assert found == checkpoints.contents(tmp_path / "b/2-gpu") and len(found) >= 40


@MODELS
@pytest.mark.parametrize("source_ranks", (1, 2, 4))
def test_the_script_for_training_checkpoints_agrees_with_the_others(model, source_ranks, folder_of, tmp_path):
    training = pytest.importorskip("training", reason="needs torch", exc_type=ImportError)
    model = dataclasses.replace(model, vocab=132)
    training.write(model, tmp_path / "training", source_ranks)
    script("eleutherai_gpt_neox_convert.py", tmp_path / "training", tmp_path, "-t", 2, "--jobs", 2)
    to_ft(folder_of(model), tmp_path / "hf", ranks=2)
    found, want = checkpoints.contents(tmp_path / "2-gpu"), checkpoints.contents(tmp_path / "hf/2-gpu")
    assert found.keys() == want.keys()
    differing = {name for name in found if found[name] != want[name]}
    if source_ranks == 1 or not model.parallel_residual:
        assert not differing
    for name in differing:  # the sum of what the source's ranks have
        assert name.endswith(("attention.dense.bias.bin", "mlp.dense_4h_to_h.bias.bin", "mlp.attention.bias.sum.bin"))
        assert np.allclose(np.frombuffer(found[name], np.float32), np.frombuffer(want[name], np.float32), rtol=1e-6, atol=1e-7)
    assert "model_name = gptneox_20B\nhead_num = 4\n" in (tmp_path / "2-gpu/config.ini").read_text()
    ids = models.prompt(9, 40, model.vocab)
    got = Engine(tmp_path / "2-gpu", device="cpu").forward(ids[None])[0]
    assert reference.relative_error(got, reference.forward(model, models.tensors(model), ids)) <= 1e-5


def test_config_only_writes_a_config_beside_the_layer_files(tmp_path, run_cli):
    training = pytest.importorskip("training", reason="needs torch", exc_type=ImportError)
    model = dataclasses.replace(PARALLEL, vocab=132)
    step = training.write(model, tmp_path, 2)
    assert run_cli("convert", "--config-only", str(tmp_path)).stdout == f"wrote {step}/config.json\n"
    assert json.loads((step / "config.json").read_text())["num_attention_heads"] == 4
    assert Engine(step, device="cpu").info.layers == 2
    assert "config.json is there" in run_cli("convert", "--config-only", str(tmp_path), check=False).stderr
    to_hf(tmp_path, tmp_path / "hf", dtype="bfloat16")
    named = {name: models.rounded(value, "bfloat16") for name, value in models.tensors(model).items()}
    with_name = PREFIX + "layers.1.mlp.dense_h_to_4h.weight"
    assert np.array_equal(_core.Checkpoint(tmp_path / "hf").read(with_name), models.to_bf16(named[with_name]))
    assert "holds no training checkpoint" in run_cli("convert", "--config-only", str(tmp_path / "hf"), check=False).stderr


def test_a_script_tells_an_error_in_one_line_and_leaves_nothing(folder_of, tmp_path):
    done = script("huggingface_gptneox_convert.py", "-o", tmp_path / "a", "-i", folder_of(PARALLEL), "-i_g", 3, "-m_n", "x", check=False)
    assert done.returncode == 1 and done.stderr.startswith("error: the number of ranks is 3, expected a divisor of the model's 4 attention")
    assert not (tmp_path / "a").exists()
    old = checkpoints.write_jp(PARALLEL, tmp_path / "old", **{"lm_head.bias": np.ones(131, np.float32)})
    done = script("huggingface_jp_gptneox_convert.py", "-o", tmp_path / "b", "-i", old, "-i_g", 1, "-m_n", "x", check=False)
    assert done.returncode == 1 and "lm_head.bias is not zero" in done.stderr and not (tmp_path / "b").exists()
    done = script("huggingface_jp_gptneox_convert.py", "-o", tmp_path / "b", "-i", old, "-i_g", 4, "-t_g", 3, "-m_n", "x", check=False)
    assert "infer_gpu_num is 4, expected a multiple of trained_gpu_num 3" in done.stderr
    done = script("huggingface_jp_gptneox_convert.py", "-o", tmp_path / "b", "-i", old, "-i_g", 4, "-t_g", 0, "-m_n", "x", check=False)
    assert "expected a multiple of trained_gpu_num 0, 1 or more" in done.stderr and "Traceback" not in done.stderr
    done = script(
        "huggingface_gptneox_convert.py", "-o", tmp_path / "a", "-i", folder_of(PARALLEL), "-i_g", 1, "-m_n", "x", "-p", -2, check=False
    )
    assert done.stderr == "error: the number of threads is -2, expected 1 or more\n" and not (tmp_path / "a/1-gpu").exists()


def test_prefix_prompts_are_cut_by_heads(tmp_path):
    old = checkpoints.write_jp(PARALLEL, tmp_path / "old")
    rng = np.random.RandomState(5)
    prompts = {"task0": 3, "task1": 5}
    for task, length in prompts.items():
        values = rng.random_sample((length, 2, 2, 4, 16)).astype(np.float32)
        models.write_safetensors(tmp_path / f"prefix_prompt.{task}.weight", {"prompt": values})
    source = open_jp_source(old)
    files = [open_prompt(tmp_path / f"prefix_prompt.{task}.weight", source.shape) for task in prompts]
    to_ft(source, tmp_path, ranks=2, prompts=files, dtype="float16")
    for i, (task, length) in enumerate(prompts.items()):
        values = np.asarray(_core.Checkpoint(tmp_path / f"prefix_prompt.{task}.weight").read("prompt"))
        for rank in range(2):
            want = np.empty((2, 2, 2, length, 16), np.float16)  # [layers, k or v, heads of the rank, length, head size]
            for head in range(2):
                want[:, :, head] = values[:, :, :, 2 * rank + head].transpose(1, 2, 0, 3)
            assert (tmp_path / f"2-gpu/model.prefix_prompt.{task}.weight.{rank}.bin").read_bytes() == want.tobytes()
        ini = configparser.ConfigParser()
        ini.read(tmp_path / "2-gpu/config.ini")
        assert dict(ini[f"task_{i}"]) == {"task_name": task, "prompt_length": str(length)}
    assert (ini["gptneox"]["num_tasks"], ini["gptneox"]["prompt_learning_type"]) == ("2", "2")
    models.write_safetensors(tmp_path / "prefix_prompt.bad.weight", {"prompt": np.zeros(257, np.float32)})
    with pytest.raises(ValueError, match="holds 257 values, expected a multiple of 256"):
        open_prompt(tmp_path / "prefix_prompt.bad.weight", source.shape)
    with pytest.raises(ValueError, match=r"two tasks have the name 'task1', expected one each: .*task1\.weight and .*task1\.weight"):
        to_ft(source, tmp_path / "twice", prompts=[*files, open_prompt(files[1].path, source.shape)])
    assert not (tmp_path / "twice").exists()


@pytest.mark.parametrize("name, task", (("prefix_prompt.task0.weight", "task0"), ("model.prefix_prompt.qa.weight.0.bin", "qa"),
                                        ("translate.v1.pt", "translate"), ("alone", "alone")))  # fmt: skip
def test_a_prompts_task_is_in_its_name(name, task):
    assert task_name(Path("somewhere") / name) == task


# Whole or not at all


def test_what_is_there_stays_unless_it_may_be_overwritten(folder_of, tmp_path):
    to_ft(folder_of(PARALLEL), tmp_path)
    before = checkpoints.contents(tmp_path / "1-gpu", without=())
    with pytest.raises(FileExistsError, match="1-gpu is there: expected no such folder"):
        to_ft(folder_of(SEQUENTIAL), tmp_path)
    assert checkpoints.contents(tmp_path / "1-gpu", without=()) == before
    to_ft(folder_of(SEQUENTIAL), tmp_path, overwrite=True)
    assert checkpoints.contents(tmp_path / "1-gpu", without=()) != before
    assert [file.name for file in tmp_path.iterdir()] == ["1-gpu"]


def test_an_error_in_the_middle_leaves_nothing(tmp_path):
    named = models.tensors(PARALLEL)
    last = named[PREFIX + "layers.1.mlp.dense_4h_to_h.weight"]
    last[3, 3] = 1e6
    models.write(PARALLEL, tmp_path / "hf", named=named)
    for convert in (to_ft, to_hf):
        message = r"layers\.1\.mlp\.dense_4h_to_h\.weight has values beyond float16's 65504"
        with pytest.raises(ValueError, match=message):
            convert(tmp_path / "hf", tmp_path / "out", dtype="float16")
        assert not any((tmp_path / "out").glob("*")) and not (tmp_path / "out.partial").exists()


def test_a_tensor_of_another_size_is_told_before_anything_is_written(tmp_path):
    named = models.tensors(PARALLEL)
    name = PREFIX + "layers.1.attention.dense.weight"
    models.write(PARALLEL, tmp_path / "short", named=named | {name: named[name][:-1]})
    with pytest.raises(ValueError, match=r"attention\.dense\.weight is \[63, 64\], expected \[64, 64\]"):
        to_ft(tmp_path / "short", tmp_path / "out")
    del named[name]
    models.write(PARALLEL, tmp_path / "missing", named=named)
    with pytest.raises(ValueError, match=r"attention\.dense\.weight is missing, expected \[64, 64\]"):
        to_hf(tmp_path / "missing", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def write_zeros(model, folder):
    """A folder of any size that takes no room on the disk: its tensors are a hole."""
    header, offset = {}, 0
    for name, shape in shapes(shape_of_config(models.config(model), "config")).items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    folder.mkdir()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + offset)
    (folder / "config.json").write_text(json.dumps(models.config(model)))
    return folder


@pytest.mark.parametrize("to", ("ft", "hf"))
def test_a_killed_conversion_leaves_nothing_that_is_taken_for_whole(to, tmp_path):
    source = write_zeros(Model(layers=8, heads=16, head_dim=64, vocab=1000), tmp_path / "source")  # 200 MB
    target = tmp_path / "out" / "1-gpu" if to == "ft" else tmp_path / "out"
    partial = target.with_name(target.name + ".partial")
    command = [sys.executable, "-m", "neoxnative", "convert", "--to", to, "--num-threads", "1", source, tmp_path / "out"]
    process = subprocess.Popen([*map(str, command)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (partial.exists() and any(partial.iterdir())) and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert any(partial.iterdir()) and not target.exists()
    with pytest.raises((FileNotFoundError, ValueError), match="config.json|is not a folder"):
        Engine(tmp_path / "out")
    assert subprocess.run([*map(str, command)], check=False, capture_output=True).returncode == 0
    assert not partial.exists() and Engine(tmp_path / "out", device="cpu").info.layers == 8


def test_a_large_checkpoint_is_never_in_memory_whole(tmp_path):
    model = Model(layers=4, heads=16, head_dim=128, vocab=50000)  # h = 2048: 0.81 GB, its largest tensor 0.2 GB
    source = write_zeros(model, tmp_path / "source")
    command = [sys.executable, "-c", MEASURED, "convert", str(source), str(tmp_path / "out"), "--tensor-parallel-size", "2"]
    peak = int(subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout.splitlines()[-1]) * 1024
    assert peak < 0.6e9
    assert (tmp_path / "out/2-gpu/model.layers.3.mlp.dense_4h_to_h.weight.1.bin").stat().st_size == 4096 * 2048 * 2


def test_two_conversions_do_not_write_the_same_folder(folder_of, tmp_path):
    (tmp_path / "1-gpu.partial").mkdir()
    held = os.open(tmp_path / "1-gpu.partial", os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    with pytest.raises(FileExistsError, match="1-gpu.partial is in use: another conversion"):
        to_ft(folder_of(PARALLEL), tmp_path)
    os.close(held)
    to_ft(folder_of(PARALLEL), tmp_path)


def test_the_command_converts_and_says_what_it_wrote(folder_of, tmp_path, run_cli):
    done = run_cli("convert", folder_of(PARALLEL), str(tmp_path), "--tensor-parallel-size", "2", "--dtype", "bfloat16")
    assert done.stdout.startswith(f"wrote {tmp_path}/2-gpu, 0.000 GB in ")
    assert Engine(tmp_path, device="cpu").info.dtype == "bfloat16"
    done = run_cli("convert", str(tmp_path), str(tmp_path / "hf"), "--to", "hf", "--dtype", "float32")
    assert (tmp_path / "hf/model.safetensors").is_file() and json.loads((tmp_path / "hf/config.json").read_text())["use_parallel_residual"]
    assert run_cli("convert", str(tmp_path), check=False).returncode == 2
    assert "is not a folder" in run_cli("convert", str(tmp_path / "nowhere"), str(tmp_path / "x"), check=False).stderr
