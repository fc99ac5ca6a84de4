# SPDX-License-Identifier: Apache-2.0
"""Prefix prompts, p/prompt-tuning and soft prompts: HuggingFace's continuations (tests/data/prompts.npz, made by
tools/make_prompt_goldens.py) in one batch of all kinds, and what is refused."""

import numpy as np
import pytest

import models
import prompt_cases
from conftest import DATA
from neoxnative import Engine, SamplingParams
from neoxnative.convert import to_ft, to_hf

ERROR = 1e-4
CASES = [prompt_cases.cases(model) for model in prompt_cases.MODELS]
MODEL = prompt_cases.MODELS[0]
TASKS = prompt_cases.tasks(MODEL)
IDS = models.prompt(7, 20, MODEL.vocab).tolist()
GREEDY = SamplingParams(max_tokens=6, temperature=0, ignore_eos=True)


@pytest.fixture(scope="module")
def goldens():
    with np.load(DATA / "prompts.npz") as file:
        return dict(file)


def page_bytes(model):
    return 16 * model.heads * ((model.head_dim + 15) // 16 * 16) * 4 * 2 * model.layers


def pinned_pages():
    return 1 + 1 + 3  # prefixes of 5, 16 and 37 positions


def open_engine(folder_of, which, pages=None, ranks=1, **options):
    model = prompt_cases.MODELS[which]
    memory = None if pages is None else (pages + pinned_pages()) * page_bytes(model) // ranks
    return Engine(
        folder_of(model), dtype="float32", device="cpu", kv_cache_memory=memory, prompt_learning=prompt_cases.tasks(model), **options
    )


def params_of(case):
    if case.beams > 1:
        return SamplingParams(max_tokens=case.new, beam_width=case.beams, n=case.beams)
    scored = bool(case.ids)
    return SamplingParams(
        max_tokens=case.new,
        temperature=0,
        ignore_eos=True,
        repetition_penalty=case.penalty,
        prompt_logprobs=0 if scored and case.penalty == 1 else None,
    )


def assert_huggingfaces(outputs, which, goldens):
    for c, (case, output) in enumerate(zip(CASES[which], outputs)):
        golden = {name: goldens[key] for key in goldens for m, k, name in [key.split("/")] if (m, k) == (str(which), str(c))}
        made = output.outputs
        assert output.prompt_token_ids == list(case.ids)
        if case.beams > 1:
            for one, want, score in zip(made, golden["beams"], golden["beam_scores"]):
                assert one.token_ids == want[: len(one.token_ids)].tolist(), case
                assert (want[len(one.token_ids) :] == 0).all()
                assert one.score == pytest.approx(score, abs=ERROR)
            continue
        assert made[0].token_ids == golden["tokens"].tolist(), case
        np.testing.assert_allclose(made[0].token_logprobs, golden["logprobs"], atol=ERROR)
        if output.prompt_logprobs is not None:
            told = [np.nan if entry is None else entry[token].logprob for token, entry in zip(case.ids, output.prompt_logprobs)]
            np.testing.assert_allclose(told, golden["prompt_logprobs"], atol=ERROR)


@pytest.mark.parametrize("which", range(len(CASES)), ids=["parallel", "sequential"])
@pytest.mark.parametrize("caching", [True, False])
@pytest.mark.parametrize("pages", [22, None])
@pytest.mark.parametrize("tokens", [24, 256])
@pytest.mark.parametrize("ahead", [False, True])
def test_requests_of_all_kinds_in_one_batch_are_huggingfaces(folder_of, goldens, which, caching, pages, tokens, ahead):
    engine = open_engine(folder_of, which, pages, enable_prefix_caching=caching, max_num_batched_tokens=tokens, async_scheduling=ahead)
    prompts, params = [case.prompt(prompt_cases.MODELS[which]) for case in CASES[which]], [params_of(case) for case in CASES[which]]
    for _ in range(2):
        assert_huggingfaces(engine.generate(prompts, params), which, goldens)
    assert (engine.stats.preemptions > 0) == (pages is not None)
    assert (engine.stats.tokens_cached > 0) == caching
    assert engine.stats.blocks_used == pinned_pages() and engine.stats.running == engine.stats.waiting == 0


@pytest.mark.parametrize(("tp", "pp"), [(2, 1), (1, 2), (2, 2)])
@pytest.mark.parametrize("pages", [22, None])
def test_requests_of_all_kinds_are_huggingfaces_on_any_grid_of_ranks(folder_of, goldens, tp, pp, pages):
    engine = open_engine(folder_of, 0, pages, ranks=tp * pp, tensor_parallel_size=tp, pipeline_parallel_size=pp)
    prompts, params = [case.prompt(MODEL) for case in CASES[0]], [params_of(case) for case in CASES[0]]
    for _ in range(2):
        assert_huggingfaces(engine.generate(prompts, params), 0, goldens)
    assert (engine.stats.preemptions > 0) == (pages is not None)


def test_equal_prompts_share_cached_pages_only_where_task_and_embeddings_are_equal_too(folder_of):
    engine = open_engine(folder_of, 0)
    embeds = prompt_cases.values(40, 16, MODEL.hidden)
    prompt = models.prompt(8, 60, MODEL.vocab).tolist()
    forms = [
        {},
        {"task": "short"},
        {"task": "page"},
        {"task": "tuned"},
        {"task": "other"},
        {"prompt_embeds": embeds},
        {"prompt_embeds": np.where(embeds == embeds[15, 3], 0, embeds)},  # but for one number
        {"task": "short", "prompt_embeds": embeds},
    ]
    for form in forms:
        before = engine.stats.tokens_cached
        first = engine.generate({"prompt_token_ids": prompt, **form}, GREEDY)
        assert engine.stats.tokens_cached == before, form
        assert engine.generate({"prompt_token_ids": prompt, **form}, GREEDY)[0].outputs == first[0].outputs
        assert engine.stats.tokens_cached - before >= 43, form


def test_a_soft_prompt_longer_than_a_step_comes_in_chunks(folder_of):
    whole, chunked = open_engine(folder_of, 0), open_engine(folder_of, 0, max_num_batched_tokens=7)
    prompt = {"prompt_token_ids": IDS, "task": "long", "prompt_embeds": prompt_cases.values(41, 90, MODEL.hidden)}
    assert chunked.generate(prompt, GREEDY)[0].outputs == whole.generate(prompt, GREEDY)[0].outputs


def test_tokens_in_the_place_of_their_embeddings_give_the_same_bits(folder_of):
    engine = open_engine(folder_of, 0, enable_prefix_caching=False)
    table = models.tensors(MODEL)["gpt_neox.embed_in.weight"]
    params = SamplingParams(max_tokens=9, temperature=1.0, seed=3, n=3, logprobs=2, ignore_eos=True)
    plain = engine.generate(IDS, params)[0].outputs
    for cut in (1, 10, 20):
        prompt = {"prompt_embeds": table[IDS[:cut]], "prompt_token_ids": IDS[cut:]}
        assert engine.generate(prompt, params)[0].outputs == plain


def test_a_prefix_of_the_models_own_keys_and_values_is_the_prompt_that_made_them(folder_of):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    peer = transformers.AutoModelForCausalLM.from_pretrained(folder_of(MODEL), dtype=torch.float32).eval()
    with torch.no_grad():
        cache = peer(torch.tensor([IDS[:13]]), use_cache=True).past_key_values
    prefix = np.stack([np.stack([layer.keys[0].numpy(), layer.values[0].numpy()]) for layer in cache.layers])
    engine = Engine(folder_of(MODEL), dtype="float32", device="cpu", prompt_learning={"own": prefix})
    whole = engine.generate(IDS, GREEDY)[0].outputs[0]
    rest = engine.generate({"prompt_token_ids": IDS[13:], "task": "own"}, GREEDY)[0].outputs[0]
    assert rest.token_ids == whole.token_ids
    np.testing.assert_allclose(rest.token_logprobs, whole.token_logprobs, atol=ERROR)


def test_no_repeat_ngrams_and_bad_words_pass_over_virtual_tokens(folder_of):
    engine = open_engine(folder_of, 0)
    virtual = [MODEL.vocab, 5, MODEL.vocab + 1, 5, MODEL.vocab + 1]
    params = SamplingParams(max_tokens=40, temperature=0, ignore_eos=True, no_repeat_ngram_size=2, bad_words=[[5, 6], [7]])
    for prompt in ({"prompt_token_ids": virtual, "task": "tuned"}, {"prompt_embeds": prompt_cases.values(1, 3, MODEL.hidden)}):
        ids = [token for token in prompt.get("prompt_token_ids", ()) if token < MODEL.vocab]
        made = engine.generate(prompt, params)[0].outputs[0].token_ids
        pairs = list(zip(made, made[1:]))
        assert len(made) == 40 and len(set(pairs)) == len(pairs) and 7 not in made and (5, 6) not in pairs, ids


def test_generate_ids_takes_tasks_and_soft_prompts_by_fastertransformers_names(folder_of):
    engine = open_engine(folder_of, 0)
    told = [(task.name, task.type, task.length) for task in engine.info.tasks]
    prefixes = [("short", "prefix", 5), ("page", "prefix", 16), ("long", "prefix", 37)]
    tables = [("tuned", "tuning", 9), ("none", "tuning", 0), ("other", "tuning", 4)]
    assert told == [pair for both in zip(prefixes, tables) for pair in both][:4] + [tables[2], prefixes[2]]
    vocab, lengths = MODEL.vocab, [4, 6, 3, 6]
    ids = np.array([[1, 2, 3, 4, 0, 0], [vocab + 1, 1, vocab, 2, 3, 4], [9, 8, 7, 0, 0, 0], [1, 2, 3, 4, 5, 6]])
    out = engine.generate_ids(ids, lengths, request_output_len=5, prompt_learning_task_name_ids=[5, 1, 0, 3], end_id=0)
    for row, (own, task) in enumerate(zip(([1, 2, 3, 4], [1, 2, 3, 4], [9, 8, 7], [1, 2, 3, 4, 5, 6]), ("long", "tuned", "short", "none"))):
        prompt = {"prompt_token_ids": ids[row, : lengths[row]], "task": task}
        want = engine.generate(prompt, SamplingParams(max_tokens=5, temperature=0, stop_token_ids=[0], ignore_eos=True))[0].outputs[0]
        length = len(own) + len(want.token_ids)
        assert out.sequence_length[row, 0] == length
        assert out.output_ids[row, 0, :length].tolist() == own + want.token_ids
    soft = prompt_cases.values(3, 4, 8, MODEL.hidden)
    tensors = {"request_prompt_embedding": soft, "request_prompt_lengths": [8, 0, 3, 1], "request_prompt_type": [1, 1, 1, 1]}
    ids = np.array([[1, 2, 3, 4]] * 4)
    out = engine.generate_ids(ids, request_output_len=5, end_id=0, beam_width=2, **tensors)
    for row, length in enumerate([8, 0, 3, 1]):
        prompt = {"prompt_token_ids": ids[row], "prompt_embeds": soft[row, :length]}
        params = SamplingParams(max_tokens=5, beam_width=2, n=2, length_penalty=0, stop_token_ids=[0], ignore_eos=True)
        for beam, want in enumerate(engine.generate(prompt, params)[0].outputs):
            assert out.output_ids[row, beam, 4 : 4 + len(want.token_ids)].tolist() == want.token_ids
    with pytest.raises(ValueError, match="prompt_learning_task_name_ids holds 6, expected a task of this engine, of which there are 6"):
        engine.generate_ids(ids, prompt_learning_task_name_ids=[0, 1, 2, 6])
    with pytest.raises(ValueError, match="come together"):
        engine.generate_ids(ids, request_prompt_embedding=soft)
    with pytest.raises(ValueError, match="both given"):
        engine.generate_ids(ids, prompt_learning_task_name_ids=[0] * 4, **tensors)
    with pytest.raises(ValueError, match="request_prompt_type holds 2, expected 1"):
        engine.generate_ids(ids, **tensors | {"request_prompt_type": [1, 1, 2, 1]})
    with pytest.raises(ValueError, match="request_prompt_lengths holds 9, expected 0 to 8"):
        engine.generate_ids(ids, **tensors | {"request_prompt_lengths": [1, 1, 9, 1]})


def write_ft_files(folder, kind, tasks, ranks, dtype):
    """FasterTransformer's folder of prompts: config.ini and the tasks' files."""
    named = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
    lines = ["[gptneox]", f"weight_data_type={dtype}", f"num_tasks={len(tasks)}", f"prompt_learning_type={kind}"]

    def write(name, array):
        array = models.rounded(np.ascontiguousarray(array), named[dtype])
        (folder / name).write_bytes((models.to_bf16(array) if dtype == "bf16" else array.astype(named[dtype])).tobytes())

    for k, (name, array) in enumerate(tasks.items()):
        length = 0 if array is None else array.shape[3 if kind == 2 else 0]
        lines += [f"[task_{k}]", f"task_name={name}", f"prompt_length={length}"]
        if array is None:
            continue
        for r in range(ranks):
            part = MODEL.heads // ranks
            if kind == 2:
                write(f"model.prefix_prompt.{name}.weight.{r}.bin", array[:, :, r * part : (r + 1) * part])
        if kind == 3:
            write(f"model.prompt_table.{name}.weight.bin", array)
    (folder / "config.ini").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(("kind", "names"), [(2, ("short", "none", "long")), (3, ("other", "none", "tuned"))])
@pytest.mark.parametrize(("file_ranks", "tp"), [(1, 1), (2, 1), (1, 2), (4, 2)])
@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_fastertransformers_files_are_their_arrays_on_any_number_of_ranks(folder_of, tmp_path, kind, names, file_ranks, tp, dtype):
    tasks = {name: TASKS[name] for name in names}
    write_ft_files(tmp_path, kind, tasks, file_ranks, dtype)
    named = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}[dtype]
    arrays = {name: None if array is None else models.rounded(array, named) for name, array in tasks.items()}
    made = []
    for given in (tmp_path, arrays):
        engine = Engine(folder_of(MODEL), dtype="float32", device="cpu", tensor_parallel_size=tp, prompt_learning=given)
        assert [task.name for task in engine.info.tasks] == list(names)
        made.append([engine.generate({"prompt_token_ids": IDS, "task": name}, GREEDY)[0].outputs for name in names])
    assert made[0] == made[1]
    assert len({tuple(outputs[0].token_ids) for outputs in made[0]}) == 3


@pytest.mark.parametrize(("kind", "names"), [(2, ("short", "none", "long")), (3, ("other", "none", "tuned"))])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_models_prompts_are_converted_with_it(folder_of, tmp_path, kind, names, dtype):
    write_ft_files(tmp_path, kind, {name: TASKS[name] for name in names}, 2, dtype)
    prompts_ini = (tmp_path / "config.ini").read_text()
    to_ft(folder_of(MODEL), tmp_path / "model", ranks=2, dtype={"fp32": "float32", "bf16": "bfloat16"}[dtype])
    folder = tmp_path / "model/2-gpu"
    ini = (folder / "config.ini").read_text().replace("[gptneox]", f"[jp]\nnum_tasks = 3\nprompt_learning_type = {kind}")
    (folder / "config.ini").write_text(ini + prompts_ini[prompts_ini.index("[task_0]") :])
    for file in tmp_path.glob("*.bin"):
        file.rename(folder / file.name)
    assert to_ft(folder, tmp_path / "again").warnings == []
    made = []
    for given in (folder, tmp_path / "again/1-gpu"):
        engine = Engine(given, device="cpu", prompt_learning=given)
        assert [(task.name, task.type) for task in engine.info.tasks] == [(name, "prefix" if kind == 2 else "tuning") for name in names]
        made.append([engine.generate({"prompt_token_ids": IDS, "task": name}, GREEDY)[0].outputs for name in names])
    assert made[0] == made[1]
    assert to_hf(folder, tmp_path / "hf").warnings == [f"the learned prompts of {', '.join(names)} have no place there"]
    file = next(folder.glob(f"model.prompt_table.{names[0]}.*" if kind == 3 else f"model.prefix_prompt.{names[0]}.weight.1.bin"))
    file.write_bytes(file.read_bytes()[:-2])
    with pytest.raises(ValueError, match=rf"{file.name} has {file.stat().st_size} bytes, expected {file.stat().st_size + 2}"):
        to_ft(folder, tmp_path / "refused")
    assert not (tmp_path / "refused").exists()


def test_a_tuning_task_without_a_prompt_takes_no_ids_for_virtual_ones(folder_of):
    engine = Engine(folder_of(MODEL), device="cpu", prompt_learning={"none": None, "other": TASKS["other"]})
    assert [task.type for task in engine.info.tasks] == ["tuning", "tuning"]
    ids = np.array([[MODEL.vocab - 1, MODEL.vocab - 2, 7, 9]])
    out = engine.generate_ids(ids, request_output_len=3, prompt_learning_task_name_ids=[0])
    assert out.output_ids[0, 0, :4].tolist() == ids[0].tolist()
    assert out.sequence_length.tolist() == [[7]]


BAD_PROMPTS = [
    ({"prompt_token_ids": IDS, "task": "lost"}, "task is 'lost', expected one of 'short', 'tuned', 'page', 'none', 'other', 'long'"),
    ({"prompt_token_ids": [1, MODEL.vocab]}, f"token 1 is {MODEL.vocab}, expected 0 to {MODEL.vocab - 1}$"),
    ({"prompt_token_ids": [1, MODEL.vocab], "task": "short"}, f"token 1 is {MODEL.vocab}, expected 0 to {MODEL.vocab - 1}$"),
    (
        {"prompt_token_ids": [1, MODEL.vocab + 4], "task": "other"},
        f"token 1 is {MODEL.vocab + 4}, expected .* or {MODEL.vocab} to {MODEL.vocab + 3}, the virtual tokens of task 'other'",
    ),
    ({"prompt_token_ids": [1, -1], "task": "other"}, "token 1 is -1"),
    ({"prompt_token_ids": [1, 2**30 + 1], "task": "other"}, "token 1 is 1073741825"),
    ({"task": "short"}, "the prompt is empty, expected at least one token"),
    ({}, "the prompt is empty"),
    (
        {"prompt_token_ids": IDS, "prompt_embeds": np.zeros((2, MODEL.hidden + 1), np.float32)},
        r"has shape \[2, 97\], expected \[rows, 96\]",
    ),
    ({"prompt_token_ids": IDS, "prompt_embeds": np.zeros(MODEL.hidden, np.float32)}, r"has shape \[96\], expected \[rows, 96\]"),
    ({"prompt_token_ids": IDS, "prompt_embeds": np.zeros((2, MODEL.hidden), int)}, "prompt_embeds holds int64, expected floating-point"),
    ({"prompt_token_ids": IDS, "prompt_embeds": np.full((3, MODEL.hidden), np.nan)}, "prompt_embeds holds nan in row 0, column 0"),
    ({"prompt_token_ids": IDS, "embeds": 1}, "the prompt has embeds, expected prompt, prompt_token_ids, prompt_embeds, task"),
    ({"prompt_token_ids": IDS, "prompt": "a"}, "both prompt and prompt_token_ids"),
    (
        {"prompt_token_ids": IDS * 7, "prompt_embeds": np.zeros((15, MODEL.hidden), np.float32), "task": "long"},
        "the prompt has 192 tokens, of them 52 virtual ones, expected fewer than max_model_len 192",
    ),
]


def test_what_a_prompt_has_wrong_is_named_and_others_go_on(folder_of):
    engine = open_engine(folder_of, 0)
    running = engine.submit({"prompt_token_ids": IDS, "task": "long"}, GREEDY)
    for prompt, message in BAD_PROMPTS:
        with pytest.raises(ValueError, match=message):
            engine.submit(prompt, GREEDY)
    outputs = []
    while engine.has_work():
        outputs += [delta.output for delta in engine.step() if delta.output]
    assert [output.request_id for output in outputs] == [running]
    assert outputs[0].outputs == engine.generate({"prompt_token_ids": IDS, "task": "long"}, GREEDY)[0].outputs
    with pytest.raises(ValueError, match="task is 'short', expected none: this engine has no prompt_learning"):
        Engine(folder_of(MODEL), device="cpu").submit({"prompt_token_ids": IDS, "task": "short"}, GREEDY)


BAD_TASKS = [
    (
        {"a": np.zeros((3, 4))},
        r"prompt_learning\['a'\] has shape \[3, 4\]|the tuning prompt of task 'a' has 12 numbers, expected 96 for each",
    ),
    ({"a": np.zeros((3, 4, 5))}, r"has shape \[3, 4, 5\], expected \[layers, 2, heads, length, head_dim\]"),
    ({"a": np.zeros((2, 4, 4, 6, 24))}, r"has shape \[2, 4, 4, 6, 24\], expected \[4, 2, 4, length, 24\]"),
    ({"a": np.zeros((4, 2, 4, 6, 21))}, "the prefix prompt of task 'a' has 4032 numbers, expected 768 for each of at most"),
    ({"a": np.full((2, 96), np.inf)}, "the tuning prompt of task 'a' holds NaN or infinity"),
    ({"a": np.zeros((2, 96), int)}, r"prompt_learning\['a'\] holds int64, expected floating-point numbers"),
    ({"": np.zeros((2, 96))}, "a task of prompt_learning has no name"),
    ({"a": np.zeros((4, 2, 4, 192, 24))}, "has 192 virtual tokens, expected fewer than max_model_len 192"),
]


@pytest.mark.parametrize(("tasks", "message"), BAD_TASKS, ids=range(len(BAD_TASKS)))
def test_arrays_that_do_not_fit_the_model_are_refused_by_name(folder_of, tasks, message):
    with pytest.raises(ValueError, match=message):
        Engine(folder_of(MODEL), device="cpu", prompt_learning=tasks)


def test_prefixes_that_the_cache_cannot_hold_are_refused(folder_of):
    with pytest.raises(MemoryError, match="the KV cache has 4 pages of 16 positions, too few for the prefixes of 3 tasks"):
        open_engine(folder_of, 0, pages=-1)


def test_files_that_are_missing_or_of_another_size_are_named(folder_of, tmp_path):
    tasks = {"short": TASKS["short"], "long": TASKS["long"]}
    with pytest.raises(FileNotFoundError, match="has no config.ini"):
        Engine(folder_of(MODEL), device="cpu", prompt_learning=tmp_path)
    write_ft_files(tmp_path, 2, tasks, 2, "fp32")
    file = tmp_path / "model.prefix_prompt.long.weight.1.bin"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(
        ValueError, match=r"long\.weight\.1\.bin has 56828 bytes, expected 56832: 37 virtual tokens of task 'long' in float32"
    ):
        Engine(folder_of(MODEL), device="cpu", prompt_learning=tmp_path)
    (tmp_path / "model.prefix_prompt.short.weight.0.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.prefix_prompt\.short\.weight\.0\.bin"):
        Engine(folder_of(MODEL), device="cpu", prompt_learning=tmp_path)
    ini = tmp_path / "config.ini"
    good = ini.read_text()
    ini.write_text(good.replace("prompt_learning_type=2", "prompt_learning_type=0"))
    with pytest.raises(
        ValueError, match=r"config\.ini has no tasks of learned prompts, expected prompt_learning_type 2 or 3, and num_tasks"
    ):
        Engine(folder_of(MODEL), device="cpu", prompt_learning=tmp_path)
    for old, new, message in [
        ("prompt_learning_type=2", "prompt_learning_type=4", r"config\.ini:4: \[gptneox\] prompt_learning_type: expected 0 \(none\), 1"),
        ("weight_data_type=fp32", "weight_data_type=int8", "weight_data_type: expected fp32, fp16 or bf16, found 'int8'"),
        ("num_tasks=2", "num_tasks=3", r"\[task_2\].*task_name"),
        ("prompt_length=5", "prompt_length=-5", r"\[task_0\] prompt_length: expected 0 or more"),
    ]:
        ini.write_text(good.replace(old, new))
        with pytest.raises(ValueError, match=message):
            Engine(folder_of(MODEL), device="cpu", prompt_learning=tmp_path)


def test_scores_of_virtual_tokens_are_none_and_start_counts_the_prompts_own_ids(folder_of):
    engine = open_engine(folder_of, 0)
    prompt = {"prompt_token_ids": [4, MODEL.vocab + 2, 5, 6], "task": "tuned"}
    whole = engine.score(prompt)[0].logprobs
    assert [x is None for x in whole] == [True, True, False, False]
    assert engine.score(prompt, start=3)[0].logprobs == [None, None, None, whole[3]]
    behind = engine.score({"prompt_token_ids": IDS, "task": "long"})[0].logprobs
    assert [x is None for x in behind] == [True] + [False] * 19  # nothing computed what stands before the first
    soft = {"prompt_token_ids": IDS, "prompt_embeds": prompt_cases.values(5, 2, MODEL.hidden)}
    assert None not in engine.score(soft)[0].logprobs
    assert engine.score(soft, start=7)[0].logprobs[6:] == [None, *engine.score(soft)[0].logprobs[7:]]


def test_a_number_past_the_range_fails_its_request_and_the_place_is_told(folder_of):
    engine = open_engine(folder_of, 0)
    huge = np.full((90, MODEL.hidden), 3e38, np.float32)
    huge[:, ::2] = -3e38
    bad, fine = engine.generate(
        [{"prompt_token_ids": IDS, "prompt_embeds": huge, "task": "short"}, {"prompt_token_ids": IDS, "task": "short"}], GREEDY
    )
    assert bad.outputs[0].finish_reason == "error" and "it first appeared in layer 0" in str(bad.outputs[0].error)
    assert fine.outputs[0].finish_reason == "length"
