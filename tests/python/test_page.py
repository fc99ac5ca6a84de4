# SPDX-License-Identifier: Apache-2.0
"""The page of `neoxnative serve`, as its users see it."""

import math
import re

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")
expect = pytest.importorskip("playwright.sync_api").expect

from browsing import PROMPT, finished, ids_of, new_tokens, now, set_fields, shown, until, write  # noqa: E402
from neoxnative import Engine, SamplingParams  # noqa: E402
from serving import Server, get  # noqa: E402

GREEDY = {"temperature": 0, "top_p": 1, "max_tokens": 24}
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


@pytest.fixture(scope="module")
def server():
    with Server() as running:
        yield running


@pytest.fixture(scope="module")
def engine():
    return Engine()


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
    shares = [float(text.removesuffix(" %").removeprefix("< ")) for text in rows.locator("span:last-child").all_inner_texts()]
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
    write(page, PROMPT, **GREEDY | {"max_tokens": 900})  # it repeats itself, and does not end
    until(page, "tokens.length > prompted + 5")
    page.locator("#stop").evaluate("button => button.click()")  # a pointer would have to wait until nothing moves, and all is there by then
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


def test_what_the_server_refuses_is_told_and_the_page_goes_on(opened, server):
    page = opened(server, allow=["400"])
    write(page, "word " * 3000, max_tokens=4)
    expect(page.locator("#status")).to_contain_text("max_model_len")
    expect(page.locator("#status")).to_have_class("error")
    write(page, PROMPT, max_tokens=4)
    finished(page)
    assert new_tokens(page).count() == 4


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
