# SPDX-License-Identifier: Apache-2.0
"""lm-evaluation-harness on the demo model: directly, through the server, and by HuggingFace's backend in float32."""

import json
from importlib.resources import files
from pathlib import Path

import pytest

lm_eval = pytest.importorskip("lm_eval")
pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from neoxnative import Engine, SamplingParams  # noqa: E402
from neoxnative.evaluation import NeoxLM  # noqa: E402
from serving import Server  # noqa: E402

DATA = str(Path(__file__).resolve().parent.parent / "data" / "eval_task.jsonl")
FOLDER = str(files("neoxnative") / "models/classics-7m")


def task(name, **how):
    kwargs = {"data_files": {"test": DATA}}
    return {"task": name, "dataset_path": "json", "dataset_kwargs": kwargs, "test_split": "test", **how}


TASKS = [
    task("choices", output_type="multiple_choice", doc_to_text="{{context}}", doc_to_choice="{{choices}}", doc_to_target="{{answer}}"),
    task("rolling", output_type="loglikelihood_rolling", doc_to_text="", doc_to_target="{{context}}{{choices[answer]}}"),
    task(
        "words",
        output_type="generate_until",
        doc_to_text="{{context}}",
        doc_to_target="{{choices[answer]}}",
        generation_kwargs={"until": [".", ","], "max_gen_toks": 12, "do_sample": False},
    ),
]


def answers(model, tasks=TASKS, **how):
    """{task: every sample's responses} and {task: metrics}"""
    told = lm_eval.simple_evaluate(model=model, tasks=tasks, bootstrap_iters=0, **how)
    samples = {name: [sample["filtered_resps"] for sample in rows] for name, rows in told["samples"].items()}
    numbers = {name: {key: value for key, value in row.items() if isinstance(value, float)} for name, row in told["results"].items()}
    return samples, numbers


@pytest.fixture(scope="module")
def direct():
    return NeoxLM(dtype="float32", add_bos_token=False, model=FOLDER)


@pytest.fixture(scope="module")
def directly(direct):
    return answers(direct)


def assert_same(given, wanted):
    (samples, numbers), (wanted_samples, wanted_numbers) = given, wanted
    for name in samples:
        if name == "words":
            assert samples[name] == wanted_samples[name]
            continue
        for mine, theirs in zip(samples[name], wanted_samples[name], strict=True):
            for one, other in zip(mine, theirs, strict=True):
                one, other = (one, other) if isinstance(one, list | tuple) else ([one], [other])
                assert float(one[0]) == pytest.approx(float(other[0]), abs=1e-4)
                assert [str(x) for x in one[1:]] == [str(x) for x in other[1:]]
        assert numbers[name] == pytest.approx(wanted_numbers[name], rel=1e-5)


def test_direct_numbers_are_huggingfaces(directly):
    pytest.importorskip("accelerate")
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from lm_eval.models.huggingface import HFLM

    assert_same(directly, answers(HFLM(pretrained=FOLDER, dtype="float32", device="cpu", add_bos_token=False)))


def test_the_servers_numbers_are_the_direct_ones(directly):
    pytest.importorskip("tenacity")  # of lm-eval[api]
    with Server(FOLDER, "--dtype", "float32", "--served-model-name", "served") as server:
        args = {"model": "served", "base_url": f"{server.url}/v1/completions", "tokenizer_backend": "remote", "max_length": 1024}
        how = {"num_concurrent": 4, "max_retries": 1}
        choices = [TASKS[0], TASKS[2]]
        assert_same(answers("local-completions", choices, model_args=args | how), directly)
        rolling = answers("local-completions", [TASKS[1]], model_args=args | {"max_retries": 1})
        assert_same(rolling, directly)


def test_a_context_is_computed_once_for_all_its_continuations(direct):
    rows = [json.loads(line) for line in Path(DATA).read_text().splitlines()]
    context = direct.tok_encode(" ".join(row["context"] for row in rows))
    pairs = [(None, context, direct.tok_encode(choice)) for row in rows for choice in row["choices"]]
    before = direct.engine.stats.tokens_cached
    together = direct._loglikelihood_tokens(pairs, disable_tqdm=True)
    cached = direct.engine.stats.tokens_cached - before
    page = direct.engine.info.block_size
    assert cached >= (len(pairs) - 1) * ((len(context) - 1) // page) * page
    alone = Engine(FOLDER, dtype="float32", enable_prefix_caching=False)
    for (_, _, continuation), (logprob, greedy) in zip(pairs, together):
        scored = alone.score([context + continuation], start=len(context))[0]
        assert logprob == pytest.approx(sum(scored.logprobs[len(context) :]), abs=1e-6)
        ids = alone.generate([context], SamplingParams(max_tokens=len(continuation), temperature=0))[0].outputs[0].token_ids
        assert greedy == (ids == continuation)


def test_a_long_context_loses_its_beginning():
    model = NeoxLM(model=FOLDER, add_bos_token=False, max_length=20, dtype="float32")
    ids = model.tok_encode(" the sea and the ship and the sea" * 9)
    assert model._loglikelihood_tokens([(None, ids, [5, 6])], disable_tqdm=True) == model._loglikelihood_tokens(
        [(None, ids[-19:], [5, 6])], disable_tqdm=True
    )


def test_the_command_line_evaluates_a_task(run_cli, tmp_path):
    (tmp_path / "choices.yaml").write_text(json.dumps(TASKS[0]))
    done = run_cli("eval", "--tasks", "choices", "--include_path", str(tmp_path), "--model_args", f"model={FOLDER}", "--limit", "2")
    assert "|choices" in done.stdout.replace(" ", "") and "acc" in done.stdout
