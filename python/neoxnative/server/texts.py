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
    content_top: `content` is there too, with ids and so many of the most probable tokens; None = it is not
    """

    def __init__(self, texts: TokenTexts, content_top: int | None) -> None:
        self._texts = texts
        self._content_top = content_top
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
        if self._content_top is not None:
            out["content"] = token_logprobs(self._texts, tokens, entries, self._content_top, with_ids=True)
        return out


def token_logprobs(texts: TokenTexts, tokens: Sequence[int], entries: Entries, top: int, *, with_ids: bool) -> list[dict[str, Any]]:
    """`logprobs.content`: each token with its bytes and the `top` most probable ones in its place, as /v1/chat/completions has it.

    with_ids: each token's `id` too, by which a client can go on exactly
    """

    def described(token: int, logprob: float | None) -> dict[str, Any]:
        about = {"id": token} if with_ids else {}
        return about | {"token": texts.name(token), "logprob": logprob, "bytes": list(texts.data(token))}

    content = []
    for token, entry in zip(tokens, entries, strict=True):
        ranked = sorted((entry or {}).items(), key=lambda item: -item[1].logprob)[:top]
        logprob = None if entry is None else entry[token].logprob
        content.append(described(token, logprob) | {"top_logprobs": [described(i, one.logprob) for i, one in ranked]})
    return content
