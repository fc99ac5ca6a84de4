"""From a conversation to the text that a model was trained to continue."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from .tokenizer import AnyTokenizer

# Models of these families have no template in their tokenizer's files; their cards tell the form in prose. Each is a template and what ends
# an answer besides EOS. A system message stands where the family has a place for it, else before the first turn.
_DOLLY = """\
{% if messages[0].role == 'system' %}{{ messages[0].content }}{% else %}\
Below is an instruction that describes a task. Write a response that appropriately completes the request.{% endif %}{{ "\n\n" }}\
{% for m in messages if m.role != 'system' %}\
{% if m.role == 'user' %}### Instruction:\n{{ m.content }}\n\n{% else %}### Response:\n{{ m.content }}\n\n### End\n\n{% endif %}\
{% endfor %}{% if add_generation_prompt %}### Response:\n{% endif %}"""
_REDPAJAMA = """\
{% for m in messages %}\
{% if m.role == 'system' %}{{ m.content }}\n{% elif m.role == 'user' %}<human>: {{ m.content }}\n\
{% else %}<bot>: {{ m.content }}\n{% endif %}\
{% endfor %}{% if add_generation_prompt %}<bot>:{% endif %}"""
_OPEN_ASSISTANT = """\
{% for m in messages %}\
{% if m.role == 'system' %}{{ m.content }}\n{% elif m.role == 'user' %}<|prompter|>{{ m.content }}<|endoftext|>\
{% else %}<|assistant|>{{ m.content }}<|endoftext|>{% endif %}\
{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"""
_STABLELM = """\
{% for m in messages %}\
{% if m.role == 'system' %}<|SYSTEM|>{{ m.content }}{% elif m.role == 'user' %}<|USER|>{{ m.content }}\
{% else %}<|ASSISTANT|>{{ m.content }}{% endif %}\
{% endfor %}{% if add_generation_prompt %}<|ASSISTANT|>{% endif %}"""

_SHIPPED = {
    "dolly": (_DOLLY, ("### End", "### Instruction:")),
    "redpajama-chat": (_REDPAJAMA, ("\n<human>:", "\n<bot>:")),
    "open-assistant": (_OPEN_ASSISTANT, ("<|prompter|>", "<|assistant|>")),
    "stablelm-tuned": (_STABLELM, ("<|SYSTEM|>", "<|USER|>", "<|ASSISTANT|>")),
}
_ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class ChatTemplate:
    """A template in jinja, as HuggingFace's tokenizers carry it, and what ends an answer besides EOS.

    variables: the tokenizer's special tokens by their names in tokenizer_config.json, which templates refer to
    any_role: whether roles besides system, user and assistant are the template's own business
    """

    source: str
    stop: tuple[str, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()
    any_role: bool = True

    def render(self, messages: Sequence[dict[str, str]], *, add_generation_prompt: bool = True) -> str:
        """The conversation's text. ValueError for what the template refuses; ImportError without jinja2."""
        for message in messages if not self.any_role else ():
            if message["role"] not in _ROLES:
                raise ValueError(f"messages: a role is {message['role']!r}, expected {', '.join(_ROLES)}")
        template = _environment().from_string(self.source)
        text: str = template.render(messages=messages, add_generation_prompt=add_generation_prompt, **dict(self.variables))
        return text

    def check(self) -> None:
        """ValueError if the source is no template."""
        import jinja2

        try:
            _environment().from_string(self.source)
        except jinja2.TemplateSyntaxError as error:
            raise ValueError(f"the chat template is not jinja: {error.message} in line {error.lineno}") from None

    def stops(self, tokenizer: AnyTokenizer) -> tuple[list[str], list[int]]:
        """`stop` as strings, and as ids where one is a token of its own that has no text."""
        ids = [tokenizer.special_id(text) for text in self.stop]
        return [text for text, token in zip(self.stop, ids) if token is None], [token for token in ids if token is not None]


def find_chat_template(given: str | None, folder: Path) -> ChatTemplate | None:
    """The template by a shipped name or a file's path; where none is given, that of the model's folder, None if it has none.

    FileNotFoundError for a name that is neither.
    """
    if given in _SHIPPED:
        source, stop = _SHIPPED[given]
        return ChatTemplate(source, stop, any_role=False)
    variables = _special_tokens(folder)
    if given is not None:
        file = Path(given)
        if not file.is_file():
            raise FileNotFoundError(f"the chat template {given!r} is neither a file nor one of {', '.join(_SHIPPED)}")
        return ChatTemplate(file.read_text(encoding="utf-8"), (), variables)
    if (folder / "chat_template.jinja").is_file():
        return ChatTemplate((folder / "chat_template.jinja").read_text(encoding="utf-8"), (), variables)
    own = _config(folder).get("chat_template")
    if isinstance(own, list):  # several by name
        own = next((one["template"] for one in own if one["name"] == "default"), None)
    return ChatTemplate(own, (), variables) if own else None


def special_tokens(folder: Path) -> dict[str, str]:
    """The special tokens of a tokenizer_config.json by name: bos_token, eos_token, ..."""
    found = {}
    for name, value in _config(folder).items():
        content = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and isinstance(content, str):
            found[name] = content
    return found


def _special_tokens(folder: Path) -> tuple[tuple[str, str], ...]:
    return tuple(special_tokens(folder).items())


def _config(folder: Path) -> dict[str, Any]:
    file = folder / "tokenizer_config.json"
    config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return config


def _environment() -> Any:
    """Templates come with models: they are run in a sandbox, with what HuggingFace's may use."""
    try:
        from jinja2.ext import loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError:
        raise ImportError('chat templates need jinja2: pip install "neoxnative[chat]"') from None

    def refuse(message: str) -> NoReturn:
        raise ValueError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = lambda value, **how: json.dumps(value, ensure_ascii=False, **how)
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return environment
