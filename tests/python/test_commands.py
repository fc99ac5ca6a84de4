# SPDX-License-Identifier: Apache-2.0
"""score, bench, and progress: what the commands print, and to whom."""

import io
import json
import math
import os
import pty
import subprocess
import sys
import termios
import time
from contextlib import contextmanager

import pytest

import models
from models import Model
from neoxnative import Engine, SamplingParams, ScoreOutput, _core
from neoxnative.bench import measure
from neoxnative.cli import main
from neoxnative.engine import DEMO_MODEL
from neoxnative.progress import StatusLine, announced

TINY = Model(seed=8, heads=2, head_dim=16, max_positions=256)
TEXTS = ["It was a dark and stormy night", "Alice opened the door and"]


@pytest.fixture(scope="module")
def engine():
    return Engine()


def lines_of(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_score_prints_what_the_engine_says_and_a_total(capsys, engine):
    assert main(["score", *TEXTS, "--json", "--per-token"]) == 0
    *each, total = lines_of(capsys)
    wanted = engine.score(TEXTS)
    for described, score in zip(each, wanted, strict=True):
        assert described["text"] == score.prompt
        assert described["token_ids"] == score.token_ids
        assert described["logprobs"] == score.logprobs
        assert described["pieces"] == [engine.tokenizer.piece(token) for token in score.token_ids]
        assert described["tokens"] == len(score.token_ids) - 1
        assert described["logprob"] == score.cumulative_logprob
        assert described["perplexity"] == score.perplexity
    tokens, logprob = sum(d["tokens"] for d in each), sum(d["logprob"] for d in each)
    assert total["total"]["texts"] == 2
    assert total["total"]["tokens"] == tokens
    assert math.isclose(total["total"]["logprob"], logprob)
    assert math.isclose(total["total"]["perplexity"], math.exp(-logprob / tokens))


def test_score_as_text_has_a_row_for_each_text_and_each_token(capsys, engine):
    assert main(["score", *TEXTS]) == 0
    rows = [line.split(maxsplit=2) for line in capsys.readouterr().out.splitlines()]
    scores = engine.score(TEXTS)
    assert rows[0] == ["perplexity", "tokens", "text"]
    assert [row[2] for row in rows[1:]] == [*TEXTS, "total of 2 texts"]
    assert [float(row[0]) for row in rows[1:3]] == [round(score.perplexity, 4) for score in scores]
    assert main(["score", "a\nb", "--per-token"]) == 0
    rows = capsys.readouterr().out.splitlines()
    score = engine.score("a\nb")[0]
    assert rows[1].endswith("  a\\nb")
    assert len(rows) == 3 + len(score.token_ids)
    assert [json.loads(row[24:]) for row in rows[2:-1]] == [engine.tokenizer.piece(token) for token in score.token_ids]
    assert rows[2].split()[0] == "-", "a first token has no probability"
    assert [float(row.split()[0]) for row in rows[3:-1]] == [round(logprob, 4) for logprob in score.logprobs[1:]]


def test_score_reads_a_file_by_lines_and_stdin(tmp_path, run_cli):
    file = tmp_path / "texts.txt"
    file.write_text("\n".join([TEXTS[0], "", TEXTS[1], ""]))
    wanted = run_cli("score", *TEXTS, "--json").stdout
    assert run_cli("score", "--file", str(file), "--json").stdout == wanted
    assert run_cli("score", "--file", "-", "--json", input=file.read_text()).stdout == wanted
    assert run_cli("score", "-", TEXTS[1], "--json", input=TEXTS[0] + "\n").stdout == wanted


def test_a_text_of_one_token_has_no_perplexity(capsys, folder_of):
    model = folder_of(Model(vocab=4096, heads=2, head_dim=8))
    assert main(["score", "a", "b", "--model", model, "--tokenizer", str(DEMO_MODEL), "--json"]) == 0
    *each, total = lines_of(capsys)
    counts = [len(Engine(model, tokenizer=DEMO_MODEL).tokenizer.encode(text)) - 1 for text in "ab"]
    assert [described["tokens"] for described in each] == counts
    assert ScoreOutput(None, [5], [None]).perplexity != ScoreOutput(None, [5], [None]).perplexity, "it is NaN"
    assert ScoreOutput(None, [5, 6], [None, -1000.0]).perplexity == math.inf
    assert all((described["perplexity"] is None) == (described["tokens"] == 0) for described in (*each, total["total"]))


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["score"], 2),
        (["score", "a", "--file", "x"], 2),
        (["bench", "--batch", "0"], 2),
        (["bench", "--batch", "1,x"], 2),
        (["bench", "--prompt", ""], 2),
        (["bench", "--cells", "1x8,8"], 2),
        (["bench", "--rounds", "-1"], 2),
        (["score", "--file", "no/such/file"], 1),
        (["score", "a " * 3000], 1),
        (["bench", "--prompt", "100000"], 1),
        (["bench", "--model", "no/such/folder"], 1),
        (["bench", "--batch", "300", "--prompt", "8"], 1),
    ],
)
def test_what_goes_wrong_is_one_line_and_a_traceback_on_demand(arguments, code, run_cli):
    failed = run_cli(*arguments, check=False)
    assert failed.returncode == code
    assert failed.stderr.startswith("neoxnative: error: ")
    assert failed.stderr.count("\n") == 1
    assert failed.stdout == ""
    if code == 1:
        assert "Traceback" in run_cli(*arguments, "--debug", check=False).stderr


@pytest.fixture(scope="module")
def report(run_cli, folder_of):
    """bench of a tiny model with random weights, and of one combination that has no room."""
    options = ["--batch", "1,3", "--prompt", "5,40,300", "--new-tokens", "6", "--rounds", "1", "--num-threads", "1", "--json"]
    more = ["--max-num-batched-tokens", "16", "--kv-cache-dtype", "bfloat16"]
    done = run_cli("bench", "--model", folder_of(TINY), "--load-format", "dummy", *options, *more)
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_bench_measures_every_combination_that_has_room(report):
    assert [(cell["batch"], cell["prompt"]) for cell in report["cells"]] == [(1, 5), (1, 40), (3, 5), (3, 40)]
    assert [(entry["batch"], entry["prompt"]) for entry in report["left_out"]] == [(1, 300), (3, 300)]
    assert all("max_model_len 256" in entry["reason"] for entry in report["left_out"])
    assert report["engine"]["num_threads"] == 1
    assert report["engine"]["load_format"] == "dummy"
    assert any("random" in warning for warning in report["warnings"])
    for cell in report["cells"]:
        for name in ("first_token_seconds", "prefill_tokens_per_second", "decode_tokens_per_second"):
            assert 0 < cell[name]["min"] <= cell[name]["median"] <= cell[name]["max"] < math.inf
        first = cell["prompt"] * cell["batch"] / cell["prefill_tokens_per_second"]["median"]
        assert math.isclose(cell["first_token_seconds"]["max"], first), "a prefill ends with the last first token"


def test_shares_of_the_limits_follow_from_the_numbers_beside_them(report):
    hidden, inner, layers, vocab = TINY.hidden, TINY.inner, TINY.layers, TINY.vocab
    read, matmul = report["read_bytes_per_second"], report["matmul_flops_per_second"]
    on_cpu = report["engine"]["device"] == "cpu"
    triad, int8 = report["triad_bytes_per_second"], report["int8_operations_per_second"]
    assert (triad is not None, int8 is not None, report["int8_of"] is not None) == (on_cpu,) * 3
    for limit in (read, matmul, triad, int8):
        assert limit is None or 0 < limit["min"] <= limit["median"] <= limit["max"] < math.inf
    assert {"cpu": "numpy", "cuda": "cuBLASLt"}[report["engine"]["device"]] in report["matmul_of"]
    for cell in report["cells"]:
        batch, prompt = cell["batch"], cell["prompt"]
        flops = 2 * prompt * layers * (4 * hidden**2 + 2 * hidden * inner) + 2 * hidden * vocab + 2 * layers * hidden * prompt**2
        assert math.isclose(cell["prefill_flops_per_token"], flops / prompt)
        products = cell["prefill_tokens_per_second"]["median"] * flops / prompt  # of the only round
        assert math.isclose(cell["prefill_share_of_matmul"], products / matmul["median"])
        if on_cpu:
            assert math.isclose(cell["prefill_share_of_int8"], products / int8["median"])
        weights = report["engine"]["weight_bytes"] - vocab * hidden * 4
        positions = (cell["decode_bytes_per_step"] - weights) / (2 * layers * hidden * 2)
        ahead = 0 if batch == 1 else math.ceil((batch - 1) * prompt / (16 - batch + 1))
        assert batch * (prompt + 1 + 2.5) <= positions <= batch * (prompt + 1 + ahead + 2.5)
        step = cell["decode_bytes_per_step"] * cell["decode_tokens_per_second"]["median"] / batch
        assert step / read["max"] * 0.999 <= cell["decode_share_of_read"] <= step / read["min"] * 1.001
        if on_cpu:
            assert math.isclose(cell["decode_share_of_triad"], step / cell["triad_bytes_per_second"]["median"])


def test_every_timed_step_of_decode_gives_each_sequence_a_token(folder_of, monkeypatch):
    engine = Engine(folder_of(TINY), device="cpu", enable_prefix_caching=False, max_num_batched_tokens=8)
    monkeypatch.setattr("neoxnative.bench._sgemm_peak", lambda threads: 1e9)
    monkeypatch.setattr("neoxnative.bench._core.read_bandwidth", lambda threads: 1e9)
    told = []
    cells = [(batch, prompt) for batch in (1, 7, 8) for prompt in (1, 30)]
    measure(engine, cells=cells, new_tokens=9, rounds=2, tell=told.append)
    stats = engine.stats
    assert stats.tokens_cached == stats.preemptions == stats.running == 0
    assert stats.finished == stats.requests == (1 + 2 * 2) * 2 * (1 + 7 + 8), "once to warm up, and in each round prefill and decode"
    assert told[-1] == "round 2 of 2: batch 8, prompt 30"


def test_bench_as_text_names_the_limits_and_the_environment_that_moves_them(folder_of, monkeypatch, capsys):
    monkeypatch.setattr("neoxnative.bench._sgemm_peak", lambda threads: 123e9)
    monkeypatch.setattr("neoxnative.bench._core.read_bandwidth", lambda threads: 45e9)
    monkeypatch.setattr("neoxnative.bench._core.triad_bandwidth", lambda threads: 34e9)
    monkeypatch.setattr("neoxnative.bench._core.int8_peak", lambda threads: 567e9)
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    bench = ["bench", "--model", folder_of(TINY), "--device", "cpu", "--new-tokens", "2", "--rounds", "2"]
    assert main([*bench, "--batch", "2", "--prompt", "8"]) == 0
    out = capsys.readouterr().out
    assert "45.0 GB/s" in out and "34.0 GB/s" in out and "123.0 GFLOP/s" in out and "567.0 GOP/s" in out
    assert "OPENBLAS_CORETYPE=Haswell" in out
    head, row = (line.split() for line in out.splitlines()[-2:])
    assert head[:2] == ["batch", "prompt"]
    assert row[:2] == ["2", "8"]
    assert sum(part.endswith("%") for part in row) == 4


def test_calls_of_generate_are_timed_beside_the_time_that_reading_takes(folder_of, monkeypatch, capsys):
    monkeypatch.setattr("neoxnative.bench._sgemm_peak", lambda threads: 1e9)
    monkeypatch.setattr("neoxnative.bench._core.read_bandwidth", lambda threads: 1e9)
    ticks = iter(range(10**6))
    monkeypatch.setattr("neoxnative.bench._call", lambda engine, cell, tokens, rng: tokens + cell.batch + next(ticks) % 2 * 1e-3)
    bench = ["bench", "--model", folder_of(TINY), "--device", "cpu", "--new-tokens", "4", "--rounds", "3"]
    assert main([*bench, "--cells", "2x8,1x30", "--calls", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [(cell["batch"], cell["prompt"]) for cell in report["cells"]] == [(2, 8), (1, 30)]
    weights = report["engine"]["weight_bytes"] - TINY.vocab * TINY.hidden * 4
    for cell in report["cells"]:
        calls, batch, prompt = cell["calls"], cell["batch"], cell["prompt"]
        assert math.isclose(calls["first_token_seconds"], 1 + batch)
        assert math.isclose(calls["token_seconds"], (4 + 1e-3) / 4)
        read = sum(weights + 2 * TINY.layers * TINY.hidden * 4 * batch * (prompt + step) for step in (1, 2, 3, 4)) / 4
        assert math.isclose(calls["limit_seconds"], read / 1e9)
    assert main([*bench, "--cells", "2x8", "--calls"]) == 0
    head, row = (line.split() for line in capsys.readouterr().out.splitlines()[-2:])
    assert head[:2] == ["batch", "prompt"] and row[:2] == ["2", "8"]
    assert row[-1].endswith("%")


@pytest.mark.parametrize("limit", ["read_bandwidth", "triad_bandwidth", "int8_peak"])
def test_a_limit_of_the_machine_is_a_number_and_refuses_a_negative_count(limit):
    measure_limit = getattr(_core, limit)
    assert 0 < measure_limit(2) < math.inf
    with pytest.raises(ValueError, match="threads is -1"):
        measure_limit(-1)
    with pytest.raises(TypeError, match="threads"):
        measure_limit("2")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_status_line_is_written_anew_and_gone_in_the_end():
    stream = Terminal()
    with StatusLine(stream) as line:
        line.show("one")
        line.show("too soon after it")
        time.sleep(0.11)
        line.show("two " * 1000)
    first, second, third = stream.getvalue().split("\x1b[K")[:3]
    assert first == "\rone"
    assert second.startswith("\rtwo two") and len(second) < 1000
    assert third == "\r"
    quiet = io.StringIO()
    with StatusLine(quiet) as line:
        line.show("one")
    assert quiet.getvalue() == ""


def test_loading_is_announced_if_it_takes_a_while():
    stream = Terminal()
    with announced("loading it ...", after=30, stream=stream):
        pass
    assert stream.getvalue() == ""
    with announced("loading it ...", after=0.01, stream=stream):
        time.sleep(0.2)
    assert stream.getvalue() == "\rloading it ...\x1b[K\r\x1b[K"
    quiet = io.StringIO()
    with announced("loading it ...", after=0.01, stream=quiet) as tell:
        time.sleep(0.05)
        tell(1, 2)
    assert quiet.getvalue() == ""


def test_loading_shows_how_many_layers_are_there(folder_of, monkeypatch):
    stream = Terminal()
    monkeypatch.setattr("neoxnative.progress._INTERVAL", 0)
    monkeypatch.setattr("neoxnative.engine.announced", lambda text: announced(text, after=0, stream=stream))
    Engine(folder_of(TINY), device="cpu", kv_cache_memory=2**24)
    shown = stream.getvalue()
    assert f"] {TINY.layers} of {TINY.layers} layers, loading" in shown
    assert shown.index("[#") < shown.index(f"[{'#' * 20}]")
    assert shown.endswith("\r\x1b[K"), "the line is gone in the end"


def test_ctrl_c_ends_the_loading(folder_of, monkeypatch):
    @contextmanager
    def interrupted(text):
        def tell(done, layers):
            raise KeyboardInterrupt(done)

        yield tell

    monkeypatch.setattr("neoxnative.engine.announced", interrupted)
    with pytest.raises(KeyboardInterrupt, match="^1$"):
        Engine(folder_of(TINY), device="cpu", kv_cache_memory=2**24)


def on_a_terminal(*arguments):
    """stdout, and what came to the terminal that stderr is."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    command = [sys.executable, "-m", "neoxnative", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, text=True, check=True, timeout=120)
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 4096):
            shown += piece
    except OSError:  # all of it was read, and the other end is closed
        pass
    os.close(ours)
    return done.stdout, shown.decode()


def test_progress_is_shown_on_a_terminal_and_nowhere_else(tmp_path, run_cli):
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(TEXTS * 4))
    command = ["generate", "--file", str(file), "--max-tokens", "24"]
    quiet = run_cli(*command)
    assert quiet.stderr == ""
    out, shown = on_a_terminal(*command)
    assert out == quiet.stdout
    assert "of 8 prompts done" in shown
    assert shown.endswith("\r\x1b[K"), "the line is gone in the end"
    assert on_a_terminal("generate", "--max-tokens", "2")[1] == "", "a stream is its own progress"


def test_a_file_of_prompts_gives_what_the_engine_gives(tmp_path, capsys, engine):
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(TEXTS))
    assert main(["generate", "--file", str(file), "--n", "2", "--max-tokens", "6", "--json"]) == 0
    params = SamplingParams(max_tokens=6, temperature=0.8, top_p=0.95, seed=0, n=2)
    wanted = [[completion.text for completion in output.outputs] for output in engine.generate(TEXTS, params)]
    assert [[completion["text"] for completion in described["outputs"]] for described in lines_of(capsys)] == wanted


def test_a_file_whose_prompts_all_fail_is_an_error(tmp_path, capsys):
    model = Model(seed=4, vocab=4096, heads=2, head_dim=8)
    named = models.tensors(model)
    named["gpt_neox.final_layer_norm.bias"][:] = math.nan
    folder = models.write(model, tmp_path / "poisoned", named=named)
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(TEXTS))
    for command in (["generate"], ["generate", "--json"], ["score"]):
        assert main([*command, "--file", str(file), "--model", str(folder), "--tokenizer", str(DEMO_MODEL)]) == 1
        printed = capsys.readouterr()
        assert printed.err.startswith("neoxnative: error: the logits hold NaN")
        assert printed.err.count("\n") == 1
