# SPDX-License-Identifier: Apache-2.0
"""Chat templates, shipped and of a tokenizer, and the conversation in the terminal."""

import io
import json
import shutil
from importlib.resources import files
from pathlib import Path

import pytest

pytest.importorskip("jinja2")

from neoxnative import Engine, SamplingParams  # noqa: E402
from neoxnative.chat import Conversation, talk  # noqa: E402
from neoxnative.chat_templates import find_chat_template  # noqa: E402
from neoxnative.tokenizer import Tokenizer  # noqa: E402

FOLDER = Path(str(files("neoxnative"))) / "models/classics-7m"
TURNS = [("user", "Hi"), ("assistant", "Hello."), ("user", "Who?")]
BLURB = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
FORMS = {  # as the families' model cards give them
    "dolly": f"{BLURB}\n\n### Instruction:\nHi\n\n### Response:\nHello.\n\n### End\n\n### Instruction:\nWho?\n\n### Response:\n",
    "redpajama-chat": "<human>: Hi\n<bot>: Hello.\n<human>: Who?\n<bot>:",
    "open-assistant": "<|prompter|>Hi<|endoftext|><|assistant|>Hello.<|endoftext|><|prompter|>Who?<|endoftext|><|assistant|>",
    "stablelm-tuned": "<|USER|>Hi<|ASSISTANT|>Hello.<|USER|>Who?<|ASSISTANT|>",
}


def messages(*turns):
    return [{"role": role, "content": content} for role, content in turns]


@pytest.mark.parametrize("name", FORMS)
def test_a_shipped_template_gives_its_familys_form(name):
    template = find_chat_template(name, FOLDER)
    assert template.render(messages(*TURNS)) == FORMS[name]
    with_system = template.render(messages(("system", "Be brief."), *TURNS))
    assert "Be brief." in with_system and with_system.endswith(FORMS[name].removeprefix(BLURB))
    with pytest.raises(ValueError, match="'tool'"):
        template.render(messages(("tool", "x")))


def test_stops_are_ids_where_they_are_tokens_of_their_own(tmp_path):
    shutil.copy(FOLDER / "tokenizer.json", tmp_path)
    described = json.loads((tmp_path / "tokenizer.json").read_text())
    added = dict(described["added_tokens"][0], id=4090, content="<|USER|>", special=True)
    described["added_tokens"].append(added)
    (tmp_path / "tokenizer.json").write_text(json.dumps(described))
    texts, ids = find_chat_template("stablelm-tuned", FOLDER).stops(Tokenizer(tmp_path))
    assert len(ids) == 1 and sorted(texts) == ["<|ASSISTANT|>", "<|SYSTEM|>"]


def test_a_tokenizers_own_template_is_run_in_a_sandbox_with_its_special_tokens(tmp_path):
    config = {"bos_token": {"content": "<s>"}, "eos_token": "</s>"}
    source = "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"

    def found(**more):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | more))
        return find_chat_template(None, tmp_path)

    assert found() is None
    assert found(chat_template=source).render(messages(("user", "a"))) == "<s>user: a</s>"
    assert found(chat_template=[{"name": "default", "template": source}]).render(messages(("x", "b"))) == "<s>x: b</s>"
    with pytest.raises(ValueError, match="only users"):
        found(chat_template="{{ raise_exception('only users') }}").render([])
    with pytest.raises(Exception, match="unsafe"):
        found(chat_template="{{ ''.__class__.__mro__ }}").render([])
    with pytest.raises(ValueError, match="not jinja"):
        found(chat_template="{% for %}").check()
    (tmp_path / "chat_template.jinja").write_text("a file")
    assert found(chat_template=source).render([]) == "a file"
    assert find_chat_template(str(tmp_path / "chat_template.jinja"), FOLDER).render([]) == "a file"
    with pytest.raises(FileNotFoundError, match="one of dolly"):
        find_chat_template("no-such", FOLDER)


def test_a_conversation_remembers_its_turns_and_prints_answers(capsys, monkeypatch):
    engine = Engine()
    params = SamplingParams(max_tokens=10, seed=1)
    conversation = Conversation(engine, params, template="redpajama-chat", system="Be brief.")
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello\n\nWho are you?\n/clear\nAgain\n/exit\nnever read\n"))
    seen = []
    monkeypatch.setattr(conversation, "clear", lambda: (seen.extend(conversation.messages), Conversation.clear(conversation)))
    assert talk(conversation) == 0
    assert [turn["content"] for turn in seen if turn["role"] == "user"] == ["Hello", "Who are you?"]
    text = "Be brief.\n<human>: Hello\n<bot>:"
    wanted = engine.generate(
        [engine.tokenizer.encode(text, add_special_tokens=False)], SamplingParams(max_tokens=10, seed=1, stop=["\n<human>:", "\n<bot>:"])
    )[0].outputs[0]
    assert seen[2] == {"role": "assistant", "content": wanted.text.strip()}
    assert capsys.readouterr().out.startswith(wanted.text.strip())
    assert [turn["role"] for turn in conversation.messages] == ["system", "user", "assistant"]


def test_a_turn_that_does_not_fit_is_refused_and_forgotten():
    conversation = Conversation(Engine(), SamplingParams(), template="dolly")
    with pytest.raises(ValueError, match="max_model_len"):
        conversation.say("word " * 2000)
    assert conversation.messages == []


def test_chat_answers_lines_of_stdin_and_wants_a_template(run_cli):
    done = run_cli("chat", "--chat-template", "open-assistant", "--max-tokens", "5", "--seed", "1", input="Hello\n")
    assert done.stdout.strip() and not done.stderr
    refused = run_cli("chat", input="Hello\n", check=False)
    assert refused.returncode == 1 and "--chat-template" in refused.stderr
