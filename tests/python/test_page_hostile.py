# SPDX-License-Identifier: Apache-2.0
"""Whatever is written on the page of `neoxnative serve`, or comes from the server, is text: nothing of it is run."""

import json
import re
import unicodedata

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")
expect = pytest.importorskip("playwright.sync_api").expect

from browsing import finished, ids_of, now, shown, until, write  # noqa: E402
from neoxnative import Engine  # noqa: E402
from serving import Server, get  # noqa: E402


@pytest.fixture(scope="module")
def server():
    with Server() as running:
        yield running


@pytest.fixture(scope="module")
def engine():
    return Engine()


HOSTILE = {
    "markup": "<img src=x onerror='window.hit=1'><script>window.hit=1</script></textarea><b>bold</b>&amp;",
    "attributes": '" onmouseover="window.hit=1" \' --surprise: url(//example.com)',
    "script urls": "javascript:window.hit=1 data:text/html,<svg onload=window.hit=1> ${window.hit=1} {{7*7}}",
    "control": "a\x01b\x07c\x1b[31md\x7fe\x9ff\tg\r\nh",
    "direction": "left \u202eright\u202c \u2066isolated\u2069 \u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627 end\u200b\u200f",
    "emoji": "a fox \U0001f98a, a family \U0001f468\u200d\U0001f469\u200d\U0001f467, flags \U0001f1eb\U0001f1f7 and é€",
    "combining": "Z\u0351\u036b\u0343a\u0363\u0363l\u0348g\u0353o\u031a",
    "long": "word " * 850,
    "one long word": "x" * 900,
}
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]")


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_prompt_is_text_and_nothing_else(opened, server, engine, kind):
    page = opened(server)
    prompt = HOSTILE[kind]
    write(page, prompt, max_tokens=5)
    finished(page)
    ids = engine.tokenizer.encode(page.locator("#prompt").input_value())
    assert ids_of(page)[: len(ids)] == ids
    written = page.locator("#prompt").input_value()  # a textarea makes \r\n \n
    assert shown(page, ".token.prompt") == UNSEEN.sub("", engine.tokenizer.decode(ids))
    marks = page.locator(".token.prompt > .mark:not([data-mark='↵'])").evaluate_all("(all) => all.map((mark) => mark.dataset.mark)")
    assert len(marks) == len(UNSEEN.findall(written)) and engine.tokenizer.decode(ids) == unicodedata.normalize("NFC", written)
    for index in range(min(len(ids), 12)):
        page.evaluate(f"open({index})")
        expect(page.locator("#alternatives")).to_be_visible()
    nothing_ran(page)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def nothing_ran(page):
    assert page.evaluate("window.hit") is None
    kinds = page.evaluate("[...new Set([...document.querySelectorAll('#text *, #alternatives *')].map((node) => node.localName))].sort()")
    assert set(kinds) <= {"span", "i", "div", "button", "bdi"}
    assert page.evaluate("document.querySelectorAll('script').length") == 1


def test_a_character_of_several_tokens_is_shown_whole_and_gives_a_way_to_each(opened, server, engine):
    page = opened(server)
    write(page, "\U0001f98a!", max_tokens=1)
    finished(page)
    table, ids = engine.tokenizer.bytes_table(), engine.tokenizer.encode("\U0001f98a!")
    of_fox = [index for index, token in enumerate(ids) if table[token] and table[token] != b"!"]
    assert len(of_fox) >= 3
    assert page.evaluate("[...document.querySelectorAll('.token.prompt')].map((t) => t.textContent)")[of_fox[-1]] == "\U0001f98a"
    assert page.locator(".token.part").count() == 0
    page.locator(".token").nth(of_fox[-1]).hover()
    parts = page.locator("#parts button")
    expect(parts).to_have_count(len(of_fox))
    assert parts.all_inner_texts() == [table[ids[index]].hex(" ") for index in of_fox]
    parts.first.click()
    assert page.evaluate("opened") == of_fox[0] and parts.first.get_attribute("aria-current") == "true"
    page.evaluate("generate(tokens.slice(0, opened + 1))")  # the text may end within the character then
    until(page, f"tokens.length > {of_fox[0] + 1}")
    page.evaluate(f"(running?.abort(), show(tokens.slice(0, {of_fox[0] + 1}), 0))")
    assert page.locator(".token.part").count() == 1 and page.locator(".token").nth(of_fox[0]).bounding_box()["width"] > 1


def test_hostile_tokens_and_names_from_the_server_are_text(opened, server):
    bad = "<img src=x onerror='window.hit=1'>"

    def answer(route):
        option = {"id": 7, "token": bad, "logprob": -1.0, "bytes": list(bad.encode())}
        special = {"id": 8, "token": bad, "logprob": -2.0, "bytes": []}
        content = [option | {"top_logprobs": [option, special]}, special | {"top_logprobs": [option]}]
        choice = {"index": 0, "text": bad, "logprobs": {"content": content}, "token_ids": [7, 8], "finish_reason": "stop"}
        events = [json.dumps({"choices": [choice]}), json.dumps({"error": {"message": bad}})]
        body = "".join(f"data: {event}\n\n" for event in events) + "data: [DONE]\n\n"
        route.fulfill(status=200, content_type="text/event-stream", body=body)

    page = opened(server, wait=False)
    page.route("**/v1/models", lambda route: route.fulfill(status=200, json={"data": [{"id": bad}]}))
    page.route("**/v1/completions", answer)
    page.reload()
    expect(page.locator("#model")).to_have_text(bad)
    write(page, "a", max_tokens=2)
    expect(page.locator("#status")).to_have_text(bad)
    expect(page.locator("#status")).to_have_class("error")
    assert page.locator("#text").inner_text().count("onerror") == 2
    page.locator(".token").first.hover()
    expect(page.locator("#rows .row")).to_have_count(2)
    nothing_ran(page)


def test_the_policy_lets_nothing_in_that_is_not_the_pages_own(opened, server):
    page = opened(server, allow=["Content Security Policy", "Trusted", "TrustedScript", "TrustedHTML"])
    headers = now(get(server.port, "/")).headers
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
    assert "unsafe" not in headers["content-security-policy"] and "http" not in headers["content-security-policy"]
    tried = page.evaluate(
        """async () => {
            const refused = {};
            const markup = '<img src=x onerror="window.hit=1">';
            try { document.body.insertAdjacentHTML('beforeend', markup); } catch (error) { refused.html = error.name; }
            const later = (resolve) => setTimeout(() => {
                try { eval('window.hit = 2'); } catch (error) { refused.eval = error.name; }
                resolve();
            });
            await new Promise(later);
            try { await fetch('http://127.0.0.1:9/'); } catch (error) { refused.fetch = error.name; }
            return refused;
        }"""
    )
    assert tried == {"html": "TypeError", "eval": "EvalError", "fetch": "TypeError"}
    assert page.evaluate("window.hit") is None
