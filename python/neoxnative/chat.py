"""`neoxnative chat`: a conversation in the terminal, in the form that the model was trained on."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from .chat_templates import find_chat_template
from .engine import Engine
from .params import SamplingParams

_HELP = "/clear begins anew, /exit or Ctrl-D ends, Ctrl-C stops an answer"


class Conversation:
    """Turns of one conversation with an engine.

    template: a shipped template's name or a file; None = the tokenizer's own. ValueError where there is none.
    system: a system message, None = none
    """

    def __init__(self, engine: Engine, params: SamplingParams, *, template: str | None = None, system: str | None = None) -> None:
        found = find_chat_template(template, Path(engine.info.model))
        if found is None or engine.tokenizer is None:
            raise ValueError(f"{engine.info.model} has no chat template: name one by --chat-template, or use `neoxnative generate`")
        found.check()
        texts, ids = found.stops(engine.tokenizer)
        self._engine = engine
        self._template = found
        self._params = replace(params, stop=[*params.stop, *texts], stop_token_ids=[*params.stop_token_ids, *ids])
        self._system = [] if system is None else [{"role": "system", "content": system}]
        self.messages: list[dict[str, str]] = []
        self.clear()

    def clear(self) -> None:
        self.messages = list(self._system)

    def say(self, text: str) -> None:
        """Adds a turn of the user and prints the answer as it comes, which becomes a turn too. What was stopped midway stays as it is."""
        self.messages.append({"role": "user", "content": text})
        answer = ""
        try:
            rendered = self._template.render(self.messages)
            assert self._engine.tokenizer is not None
            ids = np.array(self._engine.tokenizer.encode(rendered, add_special_tokens=False), np.int32)
            for piece in self._engine.stream(ids, self._params):
                shown = piece.text if answer else piece.text.lstrip()
                answer += shown
                print(shown, end="", flush=True)
        except Exception:
            self.messages.pop()  # a refused turn is none
            raise
        finally:
            print(flush=True)
            if answer:
                self.messages.append({"role": "assistant", "content": answer.strip()})


def talk(conversation: Conversation) -> int:
    """Reads turns from stdin until its end, and returns the exit code."""
    terminal = sys.stdin.isatty()
    if terminal:
        with suppress(ImportError):
            import readline  # noqa: F401  (input() then has a history)
        print(_HELP, file=sys.stderr)
    while True:
        try:
            text = input("> " if terminal else "").strip()
        except EOFError:
            return 0
        except KeyboardInterrupt:
            print(file=sys.stderr)
            return 130
        if text == "/exit":
            return 0
        if text == "/clear":
            conversation.clear()
        elif text:
            _answer(conversation, text)


def _answer(conversation: Conversation, text: str) -> None:
    try:
        conversation.say(text)
    except KeyboardInterrupt:
        pass
    except ValueError as error:
        print(f"neoxnative: error: {error} (/clear begins anew)", file=sys.stderr)
