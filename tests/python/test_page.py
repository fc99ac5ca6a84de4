# SPDX-License-Identifier: Apache-2.0
"""The page of `neoxnative serve`, driven in a headless Chromium. CHROMIUM names the browser where it is not on the PATH."""

import asyncio
import json
import math
import os
import re
import shutil
import time
import unicodedata
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")
driver = pytest.importorskip("playwright.sync_api")

from neoxnative import Engine, SamplingParams  # noqa: E402
from serving import Server, get  # noqa: E402

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium (Debian: chromium)")

PROMPT = "It was a dark and stormy night"
GREEDY = {"temperature": 0, "top_p": 1, "max_tokens": 24}
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
expect = driver.expect


@pytest.fixture(scope="module")
def server():
    with Server() as running:
        yield running


@pytest.fixture(scope="module")
def engine():
    return Engine()


@pytest.fixture(scope="module")
def browser():
    with driver.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def opened(browser):
    """opened(server, **context) -> the page, loaded. At the end no script may have failed, and nothing may have been asked of others."""
    contexts, wrong = [], []

    def open_page(server, *, wait=True, allow=(), **how):
        context = browser.new_context(**how)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: wrong.append(dialog.message))

        def console(message):
            if message.type in ("error", "warning") and not any(word in message.text for word in allow):
                wrong.append(message.text)

        page.on("console", console)
        page.on("request", lambda request: request.url.startswith((server.url, "data:")) or wrong.append(request.url))
        page.goto(server.url + "/")
        if wait:
            expect(page.locator("#model")).not_to_be_empty()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


def now(work):
    """What a coroutine gives. Playwright has an event loop on this thread, so that it needs another."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result(60)


def set_fields(page, **values):
    for name, value in values.items():
        field = page.locator(f"[name={name}]")
        field.evaluate("(input, value) => { input.value = value; input.dispatchEvent(new Event('input')); }", str(value))


def write(page, prompt, **sampling):
    set_fields(page, **sampling)
    page.locator("#prompt").fill(prompt)
    page.locator("#generate").click()


def finished(page):
    expect(page.locator("#stop")).to_be_hidden(timeout=60_000)
    assert "error" not in (page.locator("#status").get_attribute("class") or ""), page.locator("#status").inner_text()


def until(page, condition, seconds=60):
    """Waits for JavaScript to be true. Playwright's own wait_for_function evaluates within the page, which its policy forbids."""
    end = time.monotonic() + seconds
    while not page.evaluate(condition):
        assert time.monotonic() < end, f"{condition} did not come true"
        page.wait_for_timeout(20)


def new_tokens(page):
    return page.locator("#text .token:not(.prompt)")


def shown(page, which="#text .token"):
    """The text of the tokens, as a reader has it: without names of special ones."""
    return page.evaluate(
        """(which) => [...document.querySelectorAll(which)]
            .map((t) => (t.querySelector('.special') ? '' : t.textContent)).join('')""",
        which,
    )


def ids_of(page):
    return page.evaluate("tokens.map((token) => token.id)")


def greedy(engine, ids, count=GREEDY["max_tokens"], **how):
    return engine.generate([ids], SamplingParams(max_tokens=count, temperature=0, **how))[0].outputs[0]


def test_a_text_streams_in_and_each_token_is_coloured_by_its_probability(opened, server, engine):
    page = opened(server)
    page.locator("#prompt").press_sequentially(PROMPT)
    set_fields(page, **GREEDY | {"max_tokens": 300})
    page.keyboard.press("Control+Enter")
    expect(page.locator("#stop")).to_be_visible()
    until(page, "tokens.length > prompted + 2")
    seen = page.evaluate("[tokens.length, running !== null]")
    assert seen[0] < 300 and seen[1]  # before the answer has ended
    finished(page)
    ids = engine.tokenizer.encode(PROMPT)
    wanted = greedy(engine, ids, 300, logprobs=8)
    assert ids_of(page) == [*ids, *wanted.token_ids]
    assert shown(page, ".token:not(.prompt)") == wanted.text and shown(page, ".token.prompt") == PROMPT
    surprises = new_tokens(page).evaluate_all("(all) => all.map((token) => Number(token.style.getPropertyValue('--nats')))")
    assert surprises == pytest.approx([min(-logprob / 8, 1) for logprob in wanted.token_logprobs], abs=2e-3)
    colours = page.evaluate("[...document.querySelectorAll('.token')].map((t) => getComputedStyle(t).backgroundColor)")
    assert len(set(colours)) > 20
    assert re.search(r"300 tokens · [\d.]+ tokens/s · first after \d+ ms", page.locator("#status").inner_text())


def test_what_the_controls_say_is_what_is_asked_for(opened, server, engine):
    page = opened(server)
    how = {"temperature": 0.9, "top_p": 0.9, "top_k": 40, "min_p": 0.02, "repetition_penalty": 1.1, "max_tokens": 30, "seed": 5}
    write(page, PROMPT, **how)
    finished(page)
    assert shown(page, ".token:not(.prompt)") == engine.generate(PROMPT, SamplingParams(**how))[0].outputs[0].text
    set_fields(page, max_tokens=0)
    page.locator("#generate").click()
    assert not page.locator("[name=max_tokens]").evaluate("(input) => input.checkValidity()")
    assert page.evaluate("running") is None


def test_hovering_shows_what_else_could_have_stood_there_and_choosing_goes_on_from_it(opened, server, engine):
    page = opened(server)
    write(page, PROMPT, **GREEDY)
    finished(page)
    prompt = engine.tokenizer.encode(PROMPT)
    first = greedy(engine, prompt, logprobs=8)
    at = 6
    new_tokens(page).nth(at).hover()
    rows = page.locator("#rows .row")
    expect(rows).to_have_count(8)
    ranked = sorted(first.logprobs[at].items(), key=lambda item: -item[1].logprob)
    assert page.evaluate(f"options(tokens[{len(prompt) + at}]).map((option) => option.id)") == [token for token, _ in ranked]
    shares = [float(text.removesuffix(" %")) for text in rows.locator("span:last-child").all_inner_texts()]
    assert shares == pytest.approx([100 * math.exp(one.logprob) for _, one in ranked], abs=0.51)
    assert rows.nth(0).get_attribute("aria-current") == "true"  # greedy
    rows.nth(3).click()
    until(page, f"running === null && tokens.length > {len(prompt) + at + 1}")
    prefix = [*prompt, *first.token_ids[:at], ranked[3][0]]
    assert ids_of(page) == [*prefix, *greedy(engine, prefix).token_ids]
    expect(page.locator("#alternatives")).to_be_hidden()
    expect(page.locator(".token.picked")).to_have_count(1)
    page.locator("#undo").click()
    assert ids_of(page) == [*prompt, *first.token_ids]
    page.locator("#more").click()
    until(page, f"running === null && tokens.length > {len(prompt) + len(first.token_ids)}")
    assert ids_of(page) == [*prompt, *greedy(engine, prompt, 2 * GREEDY["max_tokens"]).token_ids]


def test_stop_ends_the_answer_on_the_server_too(opened, server):
    before = now(server.metrics())["generation_tokens_total"]
    page = opened(server)
    write(page, PROMPT, max_tokens=900)
    until(page, "tokens.length > prompted + 5")
    page.locator("#stop").click()
    expect(page.locator("#status")).to_contain_text("stopped")
    count = page.evaluate("tokens.length")
    page.wait_for_timeout(300)
    assert page.evaluate("tokens.length") == count
    for _ in range(50):
        metrics = now(server.metrics())
        if not metrics["num_requests_running"]:
            break
        page.wait_for_timeout(100)
    assert metrics["num_requests_running"] == metrics["kv_cache_blocks_used"] == 0
    assert metrics["generation_tokens_total"] - before < 900


def test_choosing_while_the_text_still_comes_ends_the_old_one(opened, server, engine):
    page = opened(server)
    write(page, PROMPT, **GREEDY | {"max_tokens": 900})
    until(page, "tokens.length > prompted + 8")
    set_fields(page, max_tokens=5)
    new_tokens(page).nth(2).hover()
    row = page.locator("#rows .row").nth(2)
    row.click()
    until(page, "running === null")
    prompt = engine.tokenizer.encode(PROMPT)
    first = greedy(engine, prompt, 3, logprobs=8)
    third = sorted(first.logprobs[2].items(), key=lambda item: -item[1].logprob)[2][0]
    prefix = [*prompt, *first.token_ids[:2], third]
    assert ids_of(page) == [*prefix, *greedy(engine, prefix, 5).token_ids]


def test_everything_can_be_done_from_the_keyboard(opened, server, engine):
    page = opened(server)
    set_fields(page, **GREEDY)
    page.keyboard.press("Tab")  # links, then the prompt
    for _ in range(10):
        if page.evaluate("document.activeElement.id") == "prompt":
            break
        page.keyboard.press("Tab")
    page.keyboard.insert_text(PROMPT)
    page.keyboard.press("Control+Enter")
    until(page, "running === null && tokens.length > 20")
    for _ in range(30):
        if page.evaluate("document.activeElement.classList.contains('token')"):
            break
        page.keyboard.press("Tab")
    page.keyboard.press("End")
    page.keyboard.press("ArrowLeft")
    index = page.evaluate("tokens.length") - 2
    assert page.evaluate("opened") == index
    page.keyboard.press("Escape")
    expect(page.locator("#alternatives")).to_be_hidden()
    before = ids_of(page)
    option = page.evaluate(f"options(tokens[{index}])[1].id")
    for pressed in ("Enter", "ArrowDown", "Enter"):
        page.keyboard.press(pressed)
    until(page, f"running === null && tokens.length > {index + 1} && tokens[{index}].id === {option}")
    assert ids_of(page)[: index + 1] == [*before[:index], option]
    assert page.evaluate("document.activeElement === spanOf(" + str(index) + ")")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_has_it_all_on_its_screen(opened, server, scheme):
    page = opened(server, color_scheme=scheme, **PHONE)
    page.locator("#prompt").fill(PROMPT)
    page.locator("summary").tap()
    set_fields(page, **GREEDY | {"max_tokens": 120})
    page.locator("summary").tap()
    page.locator("#generate").tap()
    finished(page)
    new_tokens(page).nth(110).tap()
    box = page.locator("#alternatives").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 390 and box["y"] + box["height"] <= 844
    token = new_tokens(page).nth(110).bounding_box()
    assert token["y"] + token["height"] <= box["y"]  # not beneath it
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.locator("#rows .row").nth(1).tap()
    expect(page.locator(".token.picked")).to_have_count(1)
    finished(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground_in_both_themes(opened, server, scheme):
    page = opened(server, color_scheme=scheme)
    write(page, PROMPT, temperature=2, top_p=1, max_tokens=80, seed=1)
    finished(page)
    ratios = page.evaluate(
        """() => {
            const canvas = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
            const drawn = (...colours) => {
                for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
                return [...canvas.getImageData(0, 0, 1, 1).data.slice(0, 3)];
            };
            const light = (rgb) => rgb.map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
                .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
            const ground = getComputedStyle(document.body).backgroundColor;
            return [...document.querySelectorAll('.token, #status, nav a, .field, #model')].map((node) => {
                const style = getComputedStyle(node);
                const back = drawn(ground, style.backgroundColor), front = drawn(ground, style.backgroundColor, style.color);
                const [a, b] = [light(back), light(front)].sort((x, y) => y - x);
                return [(a + 0.05) / (b + 0.05), node.className || node.id];
            });
        }"""
    )
    assert len(ratios) > 80 and min(ratios)[0] >= 4.5, min(ratios)  # WCAG's AA for text


HOSTILE = {
    "markup": "<img src=x onerror='window.hit=1'><script>window.hit=1</script></textarea><b>bold</b>&amp;",
    "attributes": "\" onmouseover=\"window.hit=1\" ' --surprise: url(//example.com)",
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


def test_a_character_of_several_tokens_is_shown_once_it_is_whole(opened, server, engine):
    page = opened(server)
    write(page, "\U0001f98a!", max_tokens=1)
    finished(page)
    parts = page.evaluate("[...document.querySelectorAll('.token.prompt')].map((t) => [t.textContent, t.classList.contains('part')])")
    names = [engine.tokenizer.bytes_table()[token] for token in engine.tokenizer.encode("\U0001f98a!")]
    split = [(text, part) for (text, part), data in zip(parts, names) if data]
    assert len(split) >= 4 and [part for _, part in split] == [True] * (len(split) - 2) + [False, False]
    assert [text for text, _ in split] == [""] * (len(split) - 2) + ["\U0001f98a", "!"]
    page.locator(".token.part").first.hover()
    expect(page.locator("#about")).to_contain_text("part of a character")


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


def test_what_the_server_refuses_is_told_and_the_page_goes_on(opened, server):
    page = opened(server, allow=["400"])
    write(page, "word " * 3000, max_tokens=4)
    expect(page.locator("#status")).to_contain_text("max_model_len")
    expect(page.locator("#status")).to_have_class("error")
    write(page, PROMPT, max_tokens=4)
    finished(page)
    assert new_tokens(page).count() == 4


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


def test_links_lead_to_metrics_and_schema(opened, server):
    page = opened(server)
    links = page.evaluate("[...document.querySelectorAll('nav a')].map((a) => new URL(a.href).pathname)")
    assert links == ["/metrics", "/docs"]
    assert all(now(get(server.port, link)).status == 200 for link in links)


def test_a_server_with_keys_gives_the_page_and_asks_for_one(opened):
    with Server("--api-key", "the key of these tests") as server:
        page = opened(server, wait=False, allow=["401"])
        expect(page.locator("#door")).to_be_visible()
        for key, said in (("wrong", "does not know"), ("the key of these tests", None)):
            page.locator("#key").fill(key)
            page.keyboard.press("Enter")
            if said:
                expect(page.locator("#door-text")).to_contain_text(said)
        expect(page.locator("#door")).to_be_hidden()
        expect(page.locator("#model")).to_have_text("classics-7m")
        write(page, PROMPT, max_tokens=4)
        finished(page)
        assert new_tokens(page).count() == 4
        page.reload()  # the tab remembers it
        expect(page.locator("#model")).to_have_text("classics-7m")


def test_a_model_without_a_tokenizer_takes_ids(opened, folder_of):
    import models

    with Server(folder_of(models.Model(seed=8, heads=2, head_dim=16, max_positions=256))) as server:
        page = opened(server, allow=["404"])
        expect(page.locator("#prompt")).to_have_attribute("placeholder", re.compile("Token ids"))
        write(page, "5 7, 11", max_tokens=6, temperature=0)
        finished(page)
        assert ids_of(page)[:3] == [5, 7, 11] and new_tokens(page).count() == 6
        assert page.locator(".token").first.inner_text() == "5"
