# SPDX-License-Identifier: Apache-2.0
"""`neoxnative serve` as the openai package sees it: the same texts and numbers as the engine's own, and errors that say what is wrong."""

import asyncio
import json
import os
import signal

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")
openai = pytest.importorskip("openai")

from neoxnative import Engine, SamplingParams  # noqa: E402
from neoxnative.server import command  # noqa: E402
from neoxnative.server.options import ServerOptions  # noqa: E402
from serving import Server, get, post  # noqa: E402

MODEL = "classics-7m"
PROMPT = "It was a dark and stormy night"
OTHER = "Alice opened the door and"
KEY = "a key for these tests"


@pytest.fixture(scope="module")
def server():
    with Server("--chat-template", "redpajama-chat", "--api-key", "another", "--api-key", KEY, "--max-request-bytes", "100000") as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=server.url + "/v1", api_key=KEY, max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def engine():
    return Engine()


def ask(client, prompt=PROMPT, **how):
    return client.completions.create(model=MODEL, prompt=prompt, **how)


def asked(server, path, body=None):
    headers = {"Authorization": f"Bearer {KEY}"}
    return asyncio.run(get(server.port, path, **headers) if body is None else post(server.port, path, body, headers=headers))


def test_a_seeded_text_is_the_engines_own(client, engine):
    how = {"max_tokens": 24, "temperature": 0.9, "top_p": 0.95, "seed": 7, "n": 3, "presence_penalty": 0.5}
    wanted = engine.generate(PROMPT, SamplingParams(**how))[0].outputs
    answer = ask(client, **how)
    assert [choice.text for choice in answer.choices] == [one.text for one in wanted]
    assert [choice.finish_reason for choice in answer.choices] == [one.finish_reason for one in wanted]
    assert answer.usage.completion_tokens == sum(len(one.token_ids) for one in wanted)


def test_a_stream_adds_up_to_the_whole_answer_and_tells_the_usage(client):
    how = {"max_tokens": 20, "temperature": 0.8, "seed": 3, "n": 2}
    whole = ask(client, [PROMPT, OTHER], **how)
    texts = [""] * 4
    *chunks, last = ask(client, [PROMPT, OTHER], stream=True, stream_options={"include_usage": True}, **how)
    for chunk in chunks:
        assert chunk.usage is None
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [choice.text for choice in whole.choices]
    assert last.choices == [] and last.usage == whole.usage
    assert len(chunks) > 8


def test_lists_of_texts_and_of_ids_give_what_each_prompt_gives_alone(client, engine):
    how = {"max_tokens": 8, "temperature": 0}
    alone = [ask(client, prompt, **how).choices[0].text for prompt in (PROMPT, OTHER)]
    ids = [engine.tokenizer.encode(prompt) for prompt in (PROMPT, OTHER)]
    for prompt in ([PROMPT, OTHER], ids):
        answer = ask(client, prompt, **how)
        assert [choice.text for choice in answer.choices] == alone
        assert answer.usage.prompt_tokens == sum(map(len, ids))
    assert ask(client, ids[1], **how).choices[0].text == alone[1]


def test_echo_with_logprobs_scores_the_prompt(client, engine):
    scored = engine.score(PROMPT)[0]
    answer = ask(client, max_tokens=0, echo=True, logprobs=2, temperature=0).choices[0]
    assert answer.text == PROMPT
    assert answer.logprobs.token_logprobs[0] is None and answer.logprobs.top_logprobs[0] is None
    assert answer.logprobs.token_logprobs[1:] == pytest.approx(scored.logprobs[1:], abs=1e-6)
    assert answer.logprobs.tokens[0] == "<|endoftext|>" and "".join(answer.logprobs.tokens[1:]) == PROMPT
    for token, offset, top in list(zip(answer.logprobs.tokens, answer.logprobs.text_offset, answer.logprobs.top_logprobs))[1:]:
        assert PROMPT[offset:].startswith(token)
        assert token in top and 2 <= len(top) <= 3


def test_streamed_logprobs_are_those_of_the_whole_answer(client):
    how = {"max_tokens": 6, "temperature": 0, "logprobs": 3, "echo": True}
    whole = ask(client, **how).choices[0].logprobs
    parts = [chunk.choices[0].logprobs for chunk in ask(client, stream=True, **how)]
    for name in ("tokens", "token_logprobs", "text_offset", "top_logprobs"):
        assert [item for part in parts for item in getattr(part, name)] == getattr(whole, name)


def test_with_ids_the_logprobs_hold_every_alternatives_id_and_bytes(client, engine):
    how = {"max_tokens": 5, "temperature": 0, "logprobs": 3, "echo": True, "extra_body": {"return_token_ids": True}}
    wanted = engine.generate(PROMPT, SamplingParams(max_tokens=5, temperature=0, logprobs=3, prompt_logprobs=3))[0]
    completion = wanted.outputs[0]
    ids, entries = [*wanted.prompt_token_ids, *completion.token_ids], [*wanted.prompt_logprobs, *completion.logprobs]
    whole = ask(client, **how).choices[0].logprobs.content
    parts = [entry for chunk in ask(client, stream=True, **how) for entry in chunk.choices[0].logprobs.content]
    assert parts == whole and [entry["id"] for entry in whole] == ids
    assert whole[0]["logprob"] is None and whole[0]["top_logprobs"] == [] and whole[0]["bytes"] == []
    table = engine.tokenizer.bytes_table()
    for entry, logprobs in list(zip(whole, entries, strict=True))[1:]:
        ranked = sorted(logprobs.items(), key=lambda item: -item[1].logprob)[:3]
        assert [option["id"] for option in entry["top_logprobs"]] == [token for token, _ in ranked]
        assert [bytes(option["bytes"]) for option in entry["top_logprobs"]] == [table[token] for token, _ in ranked]
        assert entry["logprob"] == pytest.approx(logprobs[entry["id"]].logprob, abs=1e-6)
    assert not hasattr(ask(client, max_tokens=2, logprobs=2).choices[0].logprobs, "content")


def test_tokens_that_are_no_characters_are_told_apart_by_their_bytes(client):
    answer = ask(client, "é€", max_tokens=0, echo=True, logprobs=0).choices[0].logprobs
    data = b"".join(
        bytes.fromhex(token.removeprefix("bytes:").replace("\\x", "")) if token.startswith("bytes:") else token.encode()
        for token in answer.tokens[1:]
    )
    assert data.decode() == "é€"


def test_stop_strings_end_the_text_and_are_left_out(client):
    whole = ask(client, max_tokens=30, temperature=0).choices[0].text
    stop = whole[10:14]
    answer = ask(client, max_tokens=30, temperature=0, stop=["never in this text", stop])
    assert answer.choices[0].text == whole[: whole.index(stop)]
    assert answer.choices[0].finish_reason == "stop" and answer.choices[0].stop_reason == stop


def test_best_of_gives_the_most_probable_samples(client, engine):
    samples = engine.generate(PROMPT, SamplingParams(max_tokens=10, n=5, seed=11))[0].outputs
    ranked = sorted(samples, key=lambda one: -one.cumulative_logprob / len(one.token_ids))
    answer = ask(client, max_tokens=10, n=2, best_of=5, seed=11)
    assert [choice.text for choice in answer.choices] == [one.text for one in ranked[:2]]
    assert answer.usage.completion_tokens == sum(len(one.token_ids) for one in samples)


def test_the_engines_own_controls_go_through(client, engine):
    own = {"top_k": 5, "min_p": 0.01, "repetition_penalty": 1.3, "min_tokens": 4, "stop_token_ids": [13], "bad_words": [" the"]}
    wanted = engine.generate(PROMPT, SamplingParams(max_tokens=12, seed=5, logit_bias={20: 3.0}, **own))[0].outputs[0].text
    assert ask(client, max_tokens=12, seed=5, logit_bias={"20": 3}, extra_body=own).choices[0].text == wanted
    beams = {"beam_width": 4, "length_penalty": 0.5}
    wanted = engine.generate(PROMPT, SamplingParams(max_tokens=8, n=2, **beams))[0].outputs
    answer = ask(client, max_tokens=8, n=2, extra_body=beams)
    assert [choice.text for choice in answer.choices] == [one.text for one in wanted]


def test_chat_continues_the_templates_text(client, engine):
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Who are you?"},
        {"role": "assistant", "content": "A clerk."},
        {"role": "user", "content": [{"type": "text", "text": "Whose?"}]},
    ]
    text = "Be brief.\n<human>: Who are you?\n<bot>: A clerk.\n<human>: Whose?\n<bot>:"
    ids = engine.tokenizer.encode(text, add_special_tokens=False)
    wanted = engine.generate([ids], SamplingParams(max_tokens=12, temperature=0, logprobs=2, stop=["\n<human>:", "\n<bot>:"]))[0].outputs[0]
    how = {"model": MODEL, "messages": turns, "max_completion_tokens": 12, "temperature": 0}
    answer = client.chat.completions.create(logprobs=True, top_logprobs=2, **how)
    assert answer.choices[0].message.content == wanted.text
    assert answer.usage.prompt_tokens == len(ids)
    entries = answer.choices[0].logprobs.content
    assert [entry.logprob for entry in entries] == pytest.approx(wanted.token_logprobs, abs=1e-6)
    assert b"".join(bytes(entry.bytes) for entry in entries).decode() == wanted.text and len(entries[0].top_logprobs) == 2
    chunks = list(client.chat.completions.create(stream=True, **how))
    assert chunks[0].choices[0].delta.role == "assistant" and chunks[-1].choices[0].finish_reason == wanted.finish_reason
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == wanted.text


@pytest.mark.parametrize(
    ("body", "status", "param", "words"),
    [
        ({"prompt": "a", "model": "gpt-4"}, 404, "model", "'gpt-4'"),
        ({"prompt": []}, 400, "prompt", "expected a text"),
        ({"prompt": ["a", 3]}, 400, "prompt", "expected a text"),
        ({}, 400, "prompt", "required"),
        ({"prompt": "a", "suffix": "b"}, 400, "suffix", "not supported"),
        ({"prompt": "a", "temperature": -1}, 400, "temperature", "temperature is -1, expected"),
        ({"prompt": "a", "max_tokens": "many"}, 400, "max_tokens", "integer"),
        ({"prompt": "a", "n": 0}, 400, "n", "n is 0, expected"),
        ({"prompt": "a", "n": 3, "best_of": 2}, 400, "best_of", "best_of is 2"),
        ({"prompt": "a", "logit_bias": {"x": 1}}, 400, "logit_bias", "not a token id"),
        ({"prompt": "a", "logprobs": 99}, 400, "logprobs", "logprobs is 99"),
        ({"prompt": "a", "colour": "red"}, 400, "colour", "colour is not a field"),
        ({"prompt": "a", "stream_options": {"include_usage": True}}, 400, None, "stream is not true"),
        ({"prompt": [4096]}, 400, "prompt", "4096, expected 0 to 4095"),
        ({"prompt": "a " * 2000}, 400, "prompt", "max_model_len 1024"),
        ({"prompt": "a" * 200000}, 413, None, "100000 bytes"),
        (b"{", 400, None, "not JSON"),
        (b"[]", 400, None, "dictionary"),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(server, body, status, param, words):
    reply = asked(server, "/v1/completions", body)
    error = reply.json()["error"]
    assert (reply.status, error["param"]) == (status, param)
    assert words in error["message"] and error["type"].endswith("_error")


def test_errors_reach_the_openai_package_as_its_own(client, server):
    with pytest.raises(openai.BadRequestError, match="top_p is 2"):
        ask(client, top_p=2)
    with pytest.raises(openai.NotFoundError, match="not served here"):
        client.models.retrieve("other")
    with openai.OpenAI(base_url=server.url + "/v1", api_key="wrong", max_retries=0) as stranger, pytest.raises(openai.AuthenticationError):
        ask(stranger)
    with pytest.raises(openai.BadRequestError, match="max_model_len") as told:
        ask(client, [5] * 2000)
    assert told.value.code == "context_length_exceeded"


def test_all_tokens_banned_fails_alone_and_by_name(client):
    with pytest.raises(openai.BadRequestError, match="banned"):
        ask(client, max_tokens=4, extra_body={"allowed_token_ids": [5], "bad_words": [[5]]})
    assert ask(client, max_tokens=1).choices[0].text


def test_a_request_ends_when_its_time_is_up(client, server):
    with pytest.raises(openai.InternalServerError, match=r"after 0\.01 s") as told:
        ask(client, [PROMPT] * 50, max_tokens=900, extra_body={"timeout": 0.01, "ignore_eos": True})
    assert told.value.status_code == 504
    with pytest.raises(openai.APIError, match=r"after 0\.3 s"):  # by then the stream has begun
        list(ask(client, max_tokens=1000, stream=True, extra_body={"timeout": 0.3, "ignore_eos": True, "return_token_ids": True}))


def test_models_tokens_and_state_have_their_endpoints(client, server, engine):
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).max_model_len == engine.info.max_model_len
    tokens = asked(server, "/tokenize", {"prompt": PROMPT, "return_token_strs": True}).json()
    assert tokens["tokens"] == engine.tokenizer.encode(PROMPT) and tokens["count"] == len(tokens["token_strs"])
    bare = asked(server, "/tokenize", {"prompt": PROMPT, "add_special_tokens": False}).json()["tokens"]
    assert [0, *bare] == tokens["tokens"]
    assert asked(server, "/detokenize", {"tokens": bare}).json() == {"prompt": PROMPT}
    assert asked(server, "/detokenize", {"tokens": [-1]}).status == 400
    chat = asked(server, "/tokenize", {"messages": [{"role": "user", "content": "Hello"}]}).json()["tokens"]
    assert engine.tokenizer.decode(chat) == "<human>: Hello\n<bot>:"
    assert asked(server, "/tokenizer_info").json()["eos_token"] == "<|endoftext|>"
    assert asked(server, "/version").json()["version"]
    for path in ("/health", "/ping", "/metrics", "/", "/docs", "/openapi.json"):
        assert asyncio.run(get(server.port, path)).status == 200  # without a key
    for path in ("/v1/models", "/tokenizer_info"):
        assert asyncio.run(get(server.port, path)).status == 401


def test_metrics_count_what_was_asked_and_given(client, server):
    before = asyncio.run(server.metrics())
    answer = ask(client, [PROMPT, OTHER], max_tokens=7, extra_body={"ignore_eos": True})
    after = asyncio.run(server.metrics())
    grown = {name: after[name] - before.get(name, 0) for name in after}
    assert grown["prompt_tokens_total"] == answer.usage.prompt_tokens
    assert grown["generation_tokens_total"] == answer.usage.completion_tokens == 14
    assert grown["request_success_total"] == grown["time_to_first_token_seconds_count"] == grown["e2e_request_latency_seconds_count"] == 2
    assert grown["inter_token_latency_seconds_count"] == 12
    assert after["num_requests_running"] == after["kv_cache_blocks_used"] == 0 < after["kv_cache_blocks"]


def test_other_pages_of_a_browser_may_not_call_it(server):
    reply = asyncio.run(get(server.port, "/health", Origin="http://elsewhere.example"))
    assert "access-control-allow-origin" not in reply.headers


def test_a_conversation_needs_a_template_and_ids_no_tokenizer(folder_of):
    from models import Model

    with Server(folder_of(Model()), "--allowed-origins", "http://here.example", "--served-model-name", "tiny") as running:
        chat = asyncio.run(post(running.port, "/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]}))
        assert chat.status == 400 and "--chat-template" in chat.json()["error"]["message"]
        text = asyncio.run(post(running.port, "/v1/completions", {"prompt": "a"}))
        assert text.status == 400 and "token ids" in text.json()["error"]["message"]
        body = {"prompt": [1, 2, 3], "max_tokens": 4, "temperature": 0, "ignore_eos": True}
        wanted = Engine(folder_of(Model())).generate([1, 2, 3], SamplingParams(max_tokens=4, temperature=0, ignore_eos=True))
        choice = asyncio.run(post(running.port, "/v1/completions", body)).json()["choices"][0]
        assert choice["token_ids"] == wanted[0].outputs[0].token_ids
        streamed = asyncio.run(post(running.port, "/v1/completions", body | {"stream": True})).events
        assert [token for event in streamed for token in event["choices"][0]["token_ids"]] == choice["token_ids"]
        origin = asyncio.run(get(running.port, "/health", Origin="http://here.example"))
        assert origin.headers["access-control-allow-origin"] == "http://here.example"
        assert json.loads(asyncio.run(get(running.port, "/v1/models")).body)["data"][0]["id"] == "tiny"


def test_a_failed_engine_answers_500_then_503_and_nothing_hangs(folder_of, monkeypatch):
    httpx = pytest.importorskip("httpx")
    from models import Model
    from neoxnative.server.app import create_app

    engine = Engine(folder_of(Model()))

    def broken(queue):
        raise RuntimeError("the device is gone")

    async def run():
        transport = httpx.ASGITransport(create_app(engine, model="tiny"))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            asks = [client.post("/v1/completions", json={"prompt": [1, 2], "stream": stream}) for stream in (False, True)]
            before = await client.get("/health")
            monkeypatch.setattr(engine, "_next", broken)
            answers = await asyncio.gather(*asks)
            return before, answers, await client.get("/health"), await client.post("/v1/completions", json={"prompt": [1]})

    before, (whole, streamed), health, after = asyncio.run(run())
    assert before.status_code == 200
    assert whole.status_code == 500 and "device is gone" in whole.json()["error"]["message"]
    assert "device is gone" in streamed.text
    assert health.status_code == after.status_code == 503 and "device is gone" in after.json()["error"]["message"]


def test_a_learned_prompt_is_named_by_its_task(folder_of, tmp_path):
    import prompt_cases
    from test_prompt_learning import write_ft_files

    model = prompt_cases.MODELS[1]
    tasks = {name: prompt_cases.tasks(model)[name] for name in ("short", "none", "long")}
    write_ft_files(tmp_path, 2, tasks, 1, "fp32")
    engine = Engine(folder_of(model), prompt_learning=tasks)
    how = {"max_tokens": 6, "temperature": 0, "ignore_eos": True}
    with Server(folder_of(model), "--prompt-learning", str(tmp_path)) as running:
        for task in tasks:
            wanted = engine.generate({"prompt_token_ids": [1, 2, 3], "task": task}, SamplingParams(**how))[0].outputs[0].token_ids
            choice = asyncio.run(post(running.port, "/v1/completions", {"prompt": [1, 2, 3], "task": task, **how})).json()["choices"][0]
            assert choice["token_ids"] == wanted
        lost = asyncio.run(post(running.port, "/v1/completions", {"prompt": [1, 2, 3], "task": "lost"}))
        assert lost.status == 400 and lost.json()["error"]["param"] == "task"


@pytest.mark.parametrize("how", ["threads", "mpi"])
def test_several_ranks_serve_the_same_text(how, folder_of):
    import mpi
    from models import Model

    folder, body = folder_of(Model()), {"prompt": [1, 2, 3], "max_tokens": 6, "temperature": 0, "ignore_eos": True}
    wanted = Engine(folder).generate([1, 2, 3], SamplingParams(max_tokens=6, temperature=0, ignore_eos=True))[0].outputs[0].token_ids
    flags = ["-tp", "2", "--num-threads", "1"]
    how = {"launch": lambda *command: mpi.command(2, *command, "--mpi"), "env": mpi.environment()} if how == "mpi" else {}
    with Server(folder, *flags, **how) as running:
        assert asyncio.run(post(running.port, "/v1/completions", body)).json()["choices"][0]["token_ids"] == wanted
        os.kill(running.pid, signal.SIGTERM)
        assert running.process.wait(30) == 0


@pytest.mark.parametrize(
    ("gpus", "options", "tokens"),
    [
        (1, {}, 1024),
        (1, {"device": "cuda", "max_num_batched_tokens": None}, 1024),
        (1, {"max_num_batched_tokens": 300}, 300),
        (1, {"device": "cpu"}, None),
        (0, {"device": "auto"}, None),
    ],
)
def test_steps_are_short_on_a_gpu_unless_their_tokens_are_given(monkeypatch, gpus, options, tokens):
    class Opened(Exception):
        pass

    def open_engine(**given):
        raise Opened(given.get("max_num_batched_tokens"))

    monkeypatch.setattr(command._core, "gpu_count", lambda: gpus)
    monkeypatch.setattr(command, "Engine", open_engine)
    with pytest.raises(Opened) as opened:
        command.serve(options, ServerOptions(port=0), mpi=False)
    assert opened.value.args == (tokens,)
