"""Tokens as clients see them: each one's text or bytes, and log-probs in the forms of the two endpoints."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Any

from ..outputs import Logprob
from ..tokenizer import AnyTokenizer

Entries = Sequence[dict[int, Logprob] | None]  # of each token: its own Logprob and the most probable ones'


class TokenTexts:
    """What each token stands for. An engine without a tokenizer has none: ids stand for themselves."""

    def __init__(self, tokenizer: AnyTokenizer | None) -> None:
        self._tokenizer = tokenizer
        self._bytes = [] if tokenizer is None else tokenizer.bytes_table()

    def data(self, token: int) -> bytes:
        """Its part of the text: nothing for a special token."""
        return self._bytes[token] if token < len(self._bytes) else b""

    def name(self, token: int) -> str:
        """Its text; bytes that are not whole characters as "bytes:\\\\xe2\\\\x80", so that no two tokens look alike."""
        data = self.data(token)
        if not data:
            return f"token_id:{token}" if self._tokenizer is None else self._tokenizer.piece(token)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


class CompletionLogprobs:
    """`logprobs` of /v1/completions, for one choice, part after part.

    texts: of the engine's tokens
    top: how many of the most probable tokens were asked for
    """

    def __init__(self, texts: TokenTexts) -> None:
        self._texts = texts
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = 0  # characters of the text before the next token

    def take(self, tokens: Sequence[int], entries: Entries) -> dict[str, list[Any]]:
        out: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for token, entry in zip(tokens, entries, strict=True):
            out["tokens"].append(self._texts.name(token))
            out["text_offset"].append(self._offset)
            self._offset += len(self._decoder.decode(self._texts.data(token)))
            out["token_logprobs"].append(None if entry is None else entry[token].logprob)
            out["top_logprobs"].append(None if entry is None else {self._texts.name(i): one.logprob for i, one in entry.items()})
        return out


def chat_logprobs(texts: TokenTexts, tokens: Sequence[int], entries: Entries, top: int) -> dict[str, list[Any]]:
    """`logprobs` of /v1/chat/completions."""

    def described(token: int, logprob: float) -> dict[str, Any]:
        return {"token": texts.name(token), "logprob": logprob, "bytes": list(texts.data(token))}

    content = []
    for token, entry in zip(tokens, entries, strict=True):
        assert entry is not None
        ranked = sorted(entry.items(), key=lambda item: -item[1].logprob)[:top]
        content.append(described(token, entry[token].logprob) | {"top_logprobs": [described(i, one.logprob) for i, one in ranked]})
    return {"content": content}
