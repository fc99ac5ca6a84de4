# SPDX-License-Identifier: Apache-2.0
"""The calls of Engine on the demo model: forms of prompts, text, several calls and threads at once, what is cancelled."""

import os
import shutil
import signal
import threading

import numpy as np
import pytest

from neoxnative import Engine, SamplingParams, environment
from neoxnative.engine import DEMO_MODEL

PROMPT = "It was a dark and stormy night"
LONG = SamplingParams(max_tokens=900, ignore_eos=True, temperature=0)


@pytest.fixture(scope="module")
def engine():
    return Engine(device="cpu", num_threads=1)


def params(i, **fields):
    return SamplingParams(**{"max_tokens": 20 + i, "seed": i, "ignore_eos": True, **fields})


def settle(engine):
    engine.step()  # cancellations are carried out
    assert not engine._requests
    assert not engine._core.has_work()


def test_all_forms_of_one_prompt_give_the_same(engine):
    ids = engine.tokenizer.encode(PROMPT)
    made = [
        engine.generate(form, params(0))
        for form in (PROMPT, [PROMPT], ids, [ids], tuple(ids), np.array(ids), np.array([ids], np.uint16), [np.array(ids)])
    ]
    assert all(len(outputs) == 1 and outputs[0].outputs == made[0][0].outputs for outputs in made)
    assert made[0][0].prompt == PROMPT
    assert made[2][0].prompt is None
    assert made[0][0].prompt_token_ids == ids
    assert engine.generate([]) == []


def test_text_is_the_decoded_ids_and_the_stream_is_the_same_in_pieces(engine):
    whole = engine.generate(PROMPT, params(30))[0].outputs[0]
    assert whole.text == engine.tokenizer.decode(whole.token_ids)
    assert whole.finish_reason == "length"
    assert whole.cumulative_logprob == pytest.approx(sum(whole.token_logprobs))
    pieces = list(engine.stream(PROMPT, params(30)))
    assert "".join(piece.text for piece in pieces) == whole.text
    assert [i for piece in pieces for i in piece.token_ids] == whole.token_ids
    assert [x for piece in pieces for x in piece.token_logprobs] == whole.token_logprobs
    assert [piece.finished for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert pieces[-1].output.outputs[0] == whole


def test_a_stop_id_ends_the_request_and_is_told(engine):
    free = engine.generate(PROMPT, params(0, temperature=0))[0].outputs[0]
    stop = free.token_ids[5]
    stopped = engine.generate(PROMPT, params(0, temperature=0, stop_token_ids=[stop]))[0].outputs[0]
    assert (stopped.finish_reason, stopped.stop_reason) == ("stop", stop)
    assert stopped.token_ids == free.token_ids[: free.token_ids.index(stop) + 1]


def test_one_params_for_each_prompt(engine):
    outputs = engine.generate([PROMPT] * 3, [params(i) for i in range(3)])
    assert [len(output.outputs[0].token_ids) for output in outputs] == [20, 21, 22]
    with pytest.raises(ValueError, match="2 entries for 3 prompts"):
        engine.generate([PROMPT] * 3, [params(0)] * 2)


def test_numpy_types_name_the_weights():
    assert Engine(num_threads=1).info.dtype == "float32"
    assert Engine(dtype=np.float16, num_threads=1).info.dtype == "float16"


def test_a_folder_without_tokenizer_works_on_ids(tmp_path):
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        shutil.copy(DEMO_MODEL / name, tmp_path)
    engine = Engine(tmp_path, dtype="float32", num_threads=1)
    output = engine.generate([1, 2, 3], params(0))[0].outputs[0]
    assert (len(output.token_ids), output.text) == (20, "")
    with pytest.raises(ValueError, match="tokenizer.json"):
        engine.generate(PROMPT)
    assert Engine(tmp_path, tokenizer=DEMO_MODEL, num_threads=1).generate(PROMPT)[0].outputs[0].text


def test_submit_and_step_are_the_loop_of_a_server(engine):
    wanted = [output.outputs[0] for output in engine.generate([PROMPT] * 3, [params(i) for i in range(3)])]
    ids = [engine.submit(PROMPT, params(i)) for i in range(3)]
    outputs, texts = {}, dict.fromkeys(ids, "")
    while engine.has_work():
        for delta in engine.step():
            texts[delta.request_id] += delta.text
            if delta.finished:
                outputs[delta.request_id] = delta.output
    assert [outputs[i].outputs[0] for i in ids] == wanted
    assert [texts[i] for i in ids] == [output.text for output in wanted]
    assert engine.step() == []


def test_params_that_are_none_are_refused_by_name(engine):
    for wrong, found in (({"max_tokens": 1}, "str"), ([None], "NoneType")):
        with pytest.raises(TypeError, match=f"params holds {found}, expected SamplingParams, or one for each prompt"):
            engine.generate([PROMPT], wrong)


def test_a_cancelled_request_says_so_and_an_unknown_one_is_ignored(engine):
    request = engine.submit(PROMPT, LONG)
    engine.step()
    engine.cancel(request)
    for unknown in (10**9, -1, 2**64):
        engine.cancel(unknown)
    deltas = []
    while engine.has_work():
        deltas += engine.step()
    assert deltas[-1].finish_reason == deltas[-1].output.outputs[0].finish_reason == "cancelled"
    settle(engine)


def test_leaving_a_stream_cancels_its_request(engine):
    for _ in engine.stream(PROMPT, LONG):
        break
    settle(engine)


def test_two_streams_and_a_generate_take_turns_in_one_thread(engine):
    wanted = [engine.generate(PROMPT, params(i, max_tokens=10))[0].outputs[0].token_ids for i in range(2)]
    got = [[], []]
    for pair in zip(*(engine.stream(PROMPT, params(i, max_tokens=10)) for i in range(2))):
        for ids, piece in zip(got, pair):
            ids += piece.token_ids
        engine.generate(PROMPT, params(0, max_tokens=1))
    assert got == wanted


def test_threads_share_the_steps_and_each_gets_its_own(engine):
    wanted = [engine.generate(PROMPT, params(i))[0].outputs[0] for i in range(8)]
    logits = engine.forward([[1, 2, 3]])
    got = [None] * 8

    def work(i):
        got[i] = [output.outputs[0] for output in engine.generate([PROMPT] * 2, params(i))]
        assert np.array_equal(engine.forward([[1, 2, 3]]), logits)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [[output] * 2 for output in wanted]
    settle(engine)


def test_a_second_step_at_once_is_an_error(engine):
    engine._raw_step.acquire()
    with pytest.raises(RuntimeError, match="another thread"):
        engine.step()
    engine._raw_step.release()


def test_ctrl_c_ends_a_generate_and_no_other(engine):
    others = []
    thread = threading.Thread(target=lambda: others.extend(engine.generate(PROMPT, params(200))))
    thread.start()
    threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        for _ in range(1000):
            engine.generate([PROMPT] * 2, LONG)
    thread.join()
    assert len(others[0].outputs[0].token_ids) == 220
    settle(engine)


@pytest.mark.parametrize("attention, warns", (("unfused", True), ("fused", False)))
def test_the_cpu_warns_that_it_has_one_attention_where_another_is_asked_for(attention, warns, monkeypatch):
    monkeypatch.setenv("FMHA_ENABLE", "OFF")  # which the argument outranks
    warnings = Engine(device="cpu", kv_cache_memory=2**24, attention=attention).info.warnings
    assert ["the CPU has one attention" in w for w in warnings] == [True] * warns


@pytest.mark.parametrize("name, value", (("FMHA_ENABLE", "OFF"), ("FMHA_ENABLE", ""), ("CONTEXT_ATTENTION_BMM1_HALF_ACCUM", "ON")))
def test_on_a_cpu_the_environment_chooses_no_attention_which_is_logged_once(name, value, monkeypatch, caplog):
    monkeypatch.delenv("FMHA_ENABLE", raising=False)
    environment._say.cache_clear()
    caplog.set_level("INFO", "neoxnative")
    Engine(device="cpu", kv_cache_memory=2**24)
    assert not caplog.records
    monkeypatch.setenv(name, value)
    for _ in range(2):
        assert not Engine(device="cpu", kv_cache_memory=2**24).info.warnings
    assert [record.getMessage() for record in caplog.records] == [
        "FMHA_ENABLE and CONTEXT_ATTENTION_BMM1_HALF_ACCUM choose CUDA's attention: the CPU has one, and uses it"
    ]


def test_on_a_cpu_a_gemm_config_chooses_nothing_which_one_warning_tells(tmp_path):
    plain = Engine(device="cpu", kv_cache_memory=2**24)
    greedy = SamplingParams(max_tokens=8, temperature=0)
    for path in (tmp_path / "gemm_config.in", str(tmp_path)):  # it is not even read
        engine = Engine(device="cpu", kv_cache_memory=2**24, gemm_config=path)
        assert ["gemm_config is not used" in w and "the CPU has one way" in w for w in engine.info.warnings] == [True]
        assert engine.info.gemm_config == plain.info.gemm_config == "none"
        assert engine.generate("It was", greedy)[0].outputs == plain.generate("It was", greedy)[0].outputs
        assert engine.stats.gemm_hits == engine.stats.gemm_misses == 0


@pytest.mark.parametrize("options", ({"attention": "flash"}, {"unfused_scores": "float16"}))
def test_an_attention_that_is_not_known_is_refused_by_name(options):
    name, value = next(iter(options.items()))
    with pytest.raises(ValueError, match=f"{name} is '{value}', expected"):
        Engine(device="cpu", **options)


def test_what_the_environment_chooses_for_cuda(monkeypatch):
    for value, attention, scores in (
        (None, "fused", "float32"),
        ("ON", "fused", "model"),
        ("OFF", "unfused", "float32"),
        ("", "unfused", "float32"),
    ):
        for name in ("FMHA_ENABLE", "CONTEXT_ATTENTION_BMM1_HALF_ACCUM"):
            monkeypatch.delenv(name, raising=False)
            if value is not None:
                monkeypatch.setenv(name, value)
        assert environment.attention() == attention
        assert environment.unfused_scores() == scores
