# SPDX-License-Identifier: Apache-2.0
"""Weights of integers on the CPU: what they are, what they do to the logits, and that a request's bits depend on nothing else."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import models
import reference
from models import Model
from neoxnative import Engine, SamplingParams
from neoxnative.convert import to_hf
from neoxnative.engine import DEMO_MODEL

MODES = ("int8", "w8a8", "int4", "w4a8")
MODEL = Model(seed=7, heads=4, head_dim=32, intermediate=192, rotary_pct=0.5, max_positions=256)
PROSE = (Path(__file__).parents[1] / "data" / "prose.txt").read_text(encoding="utf-8")
BATCH = np.stack([models.prompt(100 + i, 70, MODEL.vocab) for i in range(5)])
PROMPTS = [models.prompt(seed, length, MODEL.vocab).tolist() for seed, length in enumerate((1, 3, 16, 17, 33, 64, 100, 128))]
PARAMS = [SamplingParams(max_tokens=16, temperature=(0.0, 0.9)[i % 2], seed=i, ignore_eos=True) for i in range(len(PROMPTS))]


def is_matrix(name, value):
    return value.ndim == 2 and "embed_in" not in name


def eight_bits(weight):
    """Rounded to nearest even, a scale for each output."""
    scale = np.abs(weight).max(1, keepdims=True) / np.float32(127)
    return np.rint(weight * (np.float32(127) / np.abs(weight).max(1, keepdims=True))) * scale


def plain_four_bits(weight, group):
    """Round to nearest, the largest magnitude of each group being 7, with a scale in float16."""
    x = weight.reshape(len(weight), -1, group)
    scale = (np.abs(x).max(2, keepdims=True) / 7).astype(np.float16).astype(np.float32)
    return (np.clip(np.rint(x / scale), -8, 7) * scale).reshape(weight.shape)


def four_bits(weight, group):
    """The scale of the least squared error: the largest magnitude is 7 or -7, or -8, or clipped by up to a fifth."""
    x = weight.reshape(len(weight), -1, group)
    peak = np.take_along_axis(x, np.abs(x).argmax(2)[..., None], 2)
    best, least = np.zeros_like(x), np.full((*x.shape[:2], 1), np.inf, np.float32)
    for part in np.array([8 / 7, 1, 0.95, 0.9, 0.85, 0.8], np.float32):
        scale = (peak * part / np.float32(-8)).astype(np.float16).astype(np.float32)
        made = np.clip(np.rint(x * (np.float32(1) / scale)), -8, 7) * scale
        error = ((x - made) ** 2).sum(2, keepdims=True)
        best = np.where(error < least, made, best)
        least = np.minimum(error, least)
    return best.reshape(weight.shape)


def quantised(named, mode, group=64, four=four_bits):
    def made(name, value):
        if not is_matrix(name, value):
            return value
        return four(value, group) if "4" in mode and "embed_out" not in name else eight_bits(value)

    return {name: made(name, value) for name, value in named.items()}


def relative_error(a, b):
    return float(np.linalg.norm(np.subtract(a, b, dtype=np.float64)) / np.linalg.norm(b.astype(np.float64)))


def bits_of(outputs):
    return [(o.outputs[0].token_ids, np.array(o.outputs[0].token_logprobs, np.float32).tobytes()) for o in outputs]


@pytest.mark.parametrize(("mode", "group"), [("int8", None), ("int4", None), ("int4", 32)])
def test_weights_of_integers_are_the_numbers_that_they_stand_for(mode, group, folder_of):
    engine = Engine(folder_of(MODEL), device="cpu", quantization=mode, quantization_group_size=group)
    want = reference.forward(MODEL, quantised(models.tensors(MODEL), mode, group or 64), BATCH[0])
    # A sum of squares that two roundings tie may choose another scale here and there.
    assert relative_error(engine.forward(BATCH[:1])[0], want) <= (1e-6 if mode == "int8" else 1e-3)
    assert (engine.info.quantization, engine.info.quantization_group_size) == (mode, 0 if mode == "int8" else group or 64)


@pytest.mark.parametrize("mode", MODES)
def test_the_error_of_the_logits_stays_where_the_format_has_it(mode, folder_of):
    plain = Engine(folder_of(MODEL), device="cpu").forward(BATCH)
    engine = Engine(folder_of(MODEL), device="cpu", quantization=mode)
    assert 1e-3 < relative_error(engine.forward(BATCH), plain) <= (2.5e-2 if "8" in mode[:4] and "4" not in mode else 0.17)


def options_of(mode):
    return {"kv_cache_dtype": "int8"} if mode == "int8 pages" else {"quantization": mode}


@pytest.fixture(scope="module", params=(*MODES, "int8 pages"))
def alone(request, folder_of, cpu_isas):
    """mode, and what each request gives alone in one thread of AVX2."""
    if "avx2" not in cpu_isas:
        pytest.skip("this CPU has no AVX2")
    engine = Engine(folder_of(MODEL), device="cpu", isa="avx2", num_threads=1, **options_of(request.param))
    made = [bits_of(engine.generate([ids], params))[0] for ids, params in zip(PROMPTS, PARAMS)]
    return request.param, made, [engine.forward(ids[None]).tobytes() for ids in BATCH]


VARIANTS = {
    "in a batch": {"isa": "avx2"},
    "chunked": {"isa": "avx2", "max_num_batched_tokens": 16, "max_num_seqs": 16},
    "by two threads": {"isa": "avx2", "num_threads": 2},
    "by AVX-512": {"isa": "avx512"},
    "by AVX-512 VNNI": {"isa": "avx512vnni"},
    "by two threads of AVX-512 VNNI, chunked": {"isa": "avx512vnni", "num_threads": 2, "max_num_batched_tokens": 16, "max_num_seqs": 16},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_request_has_the_same_bits_alone_and_in_any_way(variant, alone, folder_of, cpu_isas):
    mode, made, rows = alone
    options = {"num_threads": 1, **VARIANTS[variant]}
    if options["isa"] not in cpu_isas:
        pytest.skip(f"this CPU has no {options['isa']}")
    engine = Engine(folder_of(MODEL), device="cpu", **options_of(mode), **options)
    assert bits_of(engine.generate(PROMPTS, PARAMS)) == made
    assert [logits.tobytes() for logits in engine.forward(BATCH)] == rows


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", ("float32", "float16", "bfloat16"))
def test_a_converted_folder_loads_to_the_same_bits(mode, dtype, folder_of, tmp_path):
    folder = folder_of(MODEL, dtype=dtype)
    to_hf(folder, tmp_path / "made", quantization=mode)
    loaded = Engine(tmp_path / "made", device="cpu")
    assert (loaded.info.quantization, loaded.info.dtype, loaded.info.warnings) == (mode, dtype, [])
    assert loaded.forward(BATCH).tobytes() == Engine(folder, device="cpu", quantization=mode).forward(BATCH).tobytes()


@pytest.mark.parametrize(("stored", "asked"), [("int8", "w8a8"), ("w8a8", "int8"), ("int4", "w4a8"), ("w4a8", "int4")])
def test_a_folder_of_integers_may_be_run_with_either_kind_of_inputs(stored, asked, folder_of, tmp_path):
    to_hf(folder_of(MODEL), tmp_path / "made", quantization=stored, group_size=32 if "4" in stored else None)
    engine = Engine(tmp_path / "made", device="cpu", quantization=asked)
    direct = Engine(folder_of(MODEL), device="cpu", quantization=asked, quantization_group_size=32 if "4" in stored else None)
    assert engine.info.quantization == asked
    assert engine.forward(BATCH).tobytes() == direct.forward(BATCH).tobytes()


def test_a_tied_head_is_quantised_and_the_embedding_is_not(folder_of, tmp_path):
    model = Model(seed=9, heads=4, head_dim=32, intermediate=192, tied=True)
    to_hf(folder_of(model), tmp_path / "made", quantization="w4a8")
    want = Engine(folder_of(model), device="cpu", quantization="w4a8").forward(BATCH)
    assert Engine(tmp_path / "made", device="cpu").forward(BATCH).tobytes() == want.tobytes()


@pytest.mark.parametrize("mode", MODES)
def test_huggingface_reads_a_converted_folder(mode, folder_of, tmp_path):
    pytest.importorskip("compressed_tensors")
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    to_hf(folder_of(MODEL), tmp_path / "made", quantization=mode)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "made", dtype=torch.float32).eval()
    with torch.no_grad():
        want = model(torch.tensor(BATCH[:1].astype(np.int64))).logits.numpy()
    # Inputs of 8 bits are rounded in another way, to multiples of max |x| / 127.5: two roundings differ by more than each errs.
    assert relative_error(Engine(tmp_path / "made", device="cpu").forward(BATCH[:1]), want) <= (3e-2 if "a8" in mode else 5e-6)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("tp", "pp"), [(2, 1), (1, 2), (2, 2)])
def test_ranks_give_what_one_rank_gives_as_far_as_their_scales_do(mode, tp, pp, folder_of):
    options = {"device": "cpu", "quantization": mode, "quantization_group_size": 32 if "4" in mode else None}
    model = Model(seed=7, heads=4, head_dim=32, intermediate=192, vocab=133, layers=3)
    one = Engine(folder_of(model), **options).forward(BATCH)
    several = Engine(folder_of(model), tensor_parallel_size=tp, pipeline_parallel_size=pp, **options).forward(BATCH)
    if tp == 1:
        assert several.tobytes() == one.tobytes()
    elif mode == "int4":  # the same groups
        assert relative_error(several, one) <= 1e-6
    else:
        plain = Engine(folder_of(model), device="cpu").forward(BATCH)
        assert relative_error(several, plain) <= 1.2 * relative_error(one, plain)


@pytest.mark.parametrize("mode", MODES)
def test_ranks_share_a_folder_of_integers(mode, folder_of, tmp_path):
    model = Model(seed=7, heads=4, head_dim=32, intermediate=192, vocab=133)
    to_hf(folder_of(model), tmp_path / "made", quantization=mode, group_size=32 if "4" in mode else None)
    one, two = (Engine(tmp_path / "made", device="cpu", tensor_parallel_size=n).forward(BATCH) for n in (1, 2))
    assert relative_error(two, one) <= (2.5e-2 if "a8" in mode else 1e-6)  # inputs have a scale on each rank


@pytest.fixture(scope="module")
def stories():
    """A story, and 16 that the model itself tells: a thousand tokens alone would say little, since one token's log-prob may move by 1."""
    openings = ["It was", "The old man", '"Well," said', "In the morning"] * 4
    params = SamplingParams(max_tokens=400, temperature=1.0, seed=3, ignore_eos=True)
    return [PROSE, *(o.prompt + o.outputs[0].text for o in Engine(device="cpu").generate(openings, params))]


def perplexity(stories, folder=None, **options):
    scores = Engine(folder, device="cpu", dtype="float32", **options).score(stories)
    return float(np.exp(-np.mean([logprob for score in scores for logprob in score.logprobs[1:]])))


def folder_of_values(folder, four, mode):
    """The demo model with numbers that numpy rounded to integers and back."""
    from safetensors.numpy import load_file, save_file

    named = {name: value.astype(np.float32) for name, value in load_file(DEMO_MODEL / "model.safetensors").items()}
    save_file(
        {name: np.ascontiguousarray(value) for name, value in quantised(named, mode, four=four).items()}, folder / "model.safetensors"
    )
    for file in DEMO_MODEL.glob("*.json"):
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.mark.parametrize("mode", MODES)
def test_perplexity_of_the_demo_model_rises_by_no_more_than_rounding_to_nearest_has_it(mode, stories, tmp_path):
    pytest.importorskip("safetensors")
    plain, made = perplexity(stories), perplexity(stories, quantization=mode)
    nearest = perplexity(stories, folder_of_values(tmp_path, plain_four_bits, mode))
    slack = {"int8": 1.00001, "w8a8": 1.002}.get(mode, 1)  # of both the weights are the same, and of w8a8 the inputs are rounded, too
    assert made <= nearest * slack
    if mode in ("int8", "w8a8"):
        assert abs(made / plain - 1) <= 0.005


def test_pages_of_int8_change_the_perplexity_by_little_and_take_little_memory(stories):
    plain, made = perplexity(stories), perplexity(stories, kv_cache_dtype="int8")
    assert abs(made / plain - 1) <= 0.005
    many, few = (Engine(device="cpu", kv_cache_dtype=t, kv_cache_memory=1 << 22).info.num_blocks for t in ("int8", "float32"))
    assert many > 3.7 * few
    with pytest.raises(ValueError, match="kv_cache_dtype is 'int4', expected auto, float32, float16, bfloat16 or int8"):
        Engine(kv_cache_dtype="int4")


CHILD = """
import json, sys, threading, time
from neoxnative import Engine

def status(key):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(key + ":"))

options = json.loads(sys.argv[2])
Engine(device="cpu", max_model_len=64)  # whatever the process needs once
before, peak, loaded = status("RssAnon"), [0], threading.Event()

def watch():  # VmHWM counts pages of mapped files, too
    while not loaded.is_set():
        peak[0] = max(peak[0], status("RssAnon"))
        time.sleep(0.0005)

watching = threading.Thread(target=watch)
watching.start()
engine = Engine(sys.argv[1], device="cpu", kv_cache_memory=1 << 22, max_num_batched_tokens=64, max_num_seqs=4, **options)
engine.generate([[1, 2, 3]])
loaded.set()
watching.join()
print(peak[0] - before, engine.info.weight_bytes + engine.info.kv_cache_bytes)
"""


@pytest.mark.parametrize(("mode", "limit"), [("int8", 1.15), ("w8a8", 1.15), ("int4", 1.2), ("w4a8", 1.2)])
def test_loading_takes_little_more_memory_than_the_weights(mode, limit, folder_of):
    folder = folder_of(Model(layers=6, heads=16, head_dim=64, vocab=4096, max_positions=64), dtype="float16")
    run = subprocess.run(
        [sys.executable, "-c", CHILD, folder, json.dumps({"quantization": mode})], capture_output=True, text=True, check=True
    )
    peak, weights = map(int, run.stdout.split())
    assert peak <= limit * weights


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"quantization": "int3"}, "quantization is 'int3', expected none, int8, w8a8, int4 or w4a8"),
        ({"quantization": "int4", "quantization_group_size": 48}, "quantization_group_size is 48, expected 32, 64 or 128"),
        ({"quantization": "int8", "quantization_group_size": 64}, "quantization_group_size is 64 with quantization int8"),
        ({"quantization_group_size": 64}, "quantization_group_size is 64 without quantization"),
        (
            {"quantization": "int4", "quantization_group_size": 128},
            "quantization int4 has groups of 128 inputs, which do not divide the 192 of gpt_neox.layers.0.mlp.dense_4h_to_h.weight",
        ),
        (
            {"quantization": "w4a8", "tensor_parallel_size": 2},
            "do not divide the 96 of gpt_neox.layers.0.mlp.dense_4h_to_h.weight on each rank",
        ),
    ],
)
def test_what_cannot_be_is_told_by_name(options, said, folder_of):
    with pytest.raises(ValueError, match="quantization") as error:
        Engine(folder_of(MODEL), device="cpu", **options)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("stored", "options", "said"),
    [
        ("int4", {"quantization": "int8"}, "the checkpoint has int4 weights in groups of 64: expected auto, int4 or w4a8"),
        ("int4", {"quantization": "none"}, "expected auto, int4 or w4a8"),
        (
            "w4a8",
            {"quantization": "w4a8", "quantization_group_size": 32},
            "with quantization_group_size 32, but the checkpoint has int4 weights",
        ),
        ("w8a8", {"quantization": "int4"}, "the checkpoint has int8 weights: expected auto, int8 or w8a8"),
    ],
)
def test_a_folder_of_integers_is_not_made_into_others(stored, options, said, folder_of, tmp_path):
    to_hf(folder_of(MODEL), tmp_path / "made", quantization=stored)
    with pytest.raises(ValueError, match="quantization is") as error:
        Engine(tmp_path / "made", device="cpu", **options)
    assert said in str(error.value)
    with pytest.raises(NotImplementedError, match="is quantised"):
        to_hf(tmp_path / "made", tmp_path / "again")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"quant_method": "gptq"}, 'quant_method is "gptq", expected compressed-tensors'),
        ({"symmetric": False}, "symmetric is false, expected true"),
        ({"num_bits": 2}, "num_bits is 2, expected 8 or 4"),
        ({"strategy": "tensor"}, 'strategy is "tensor", expected "channel"'),
    ],
)
def test_schemes_that_are_not_known_are_refused_by_name(change, said, folder_of, tmp_path):
    to_hf(folder_of(MODEL), tmp_path / "made", quantization="int8")
    file = tmp_path / "made" / "config.json"
    config = json.loads(file.read_text())
    scheme = config["quantization_config"]
    (scheme if "quant_method" in change else scheme["config_groups"]["group_0"]["weights"]).update(change)
    file.write_text(json.dumps(config))
    with pytest.raises(NotImplementedError) as error:
        Engine(tmp_path / "made", device="cpu")
    assert said in str(error.value)


def test_convert_and_info_on_the_command_line(folder_of, tmp_path, run_cli):
    run_cli("convert", folder_of(MODEL), str(tmp_path / "made"), "--quantization", "w4a8", "--quantization-group-size", "32")
    config = json.loads((tmp_path / "made" / "config.json").read_text())["quantization_config"]
    assert config["config_groups"]["group_0"]["weights"]["group_size"] == 32
    said = run_cli("info", "--model", str(tmp_path / "made"), "--device", "cpu").stdout
    assert "w4a8" in said
    rows = run_cli("info", "--model", folder_of(MODEL), "--device", "cpu", "--quantization", "int4").stdout.splitlines()
    named = models.tensors(MODEL)
    made = quantised(named, "int4")
    first = next(row.split() for row in rows if row.startswith("0 "))
    name = "gpt_neox.layers.0.attention.query_key_value.weight"
    assert abs(float(first[1]) - relative_error(made[name], named[name])) < 2e-4
    assert [row.split()[0] for row in rows[-MODEL.layers - 1 :]] == ["0", "1", "head"]
    assert run_cli("convert", folder_of(MODEL), str(tmp_path / "ft"), "--to", "ft", "--quantization", "int8", check=False).returncode == 2
    refused = run_cli(
        "convert", folder_of(MODEL), str(tmp_path / "x"), "--quantization", "int4", "--quantization-group-size", "128", check=False
    )
    assert refused.returncode == 1
    assert "do not divide the 192" in refused.stderr


def test_what_is_not_finite_in_a_weight_is_told(folder_of, tmp_path):
    named = models.tensors(MODEL)
    named["gpt_neox.layers.1.attention.dense.weight"][3, 70] = np.nan
    folder = models.write(MODEL, tmp_path / "model", named=named)
    for mode in MODES:
        with pytest.raises(RuntimeError, match="layer 1"):
            Engine(folder, device="cpu", quantization=mode).generate([PROMPTS[3]])
    with pytest.raises(ValueError, match="attention.dense.weight has values that are not finite"):
        to_hf(folder, tmp_path / "made", quantization="int8")
