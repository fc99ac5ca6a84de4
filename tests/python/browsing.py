# SPDX-License-Identifier: Apache-2.0
"""The page of `neoxnative serve` in a headless Chromium. CHROMIUM names the browser where it is not on the PATH."""

import asyncio
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

PROMPT = "It was a dark and stormy night"


@contextmanager
def chromium():
    """A running browser; the test is skipped where there is none."""
    driver = pytest.importorskip("playwright.sync_api")
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if path is None:
        pytest.skip("there is no chromium (Debian: chromium)")
    with driver.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield launched
        launched.close()


class Visits:
    """Pages of servers, each in a context of its own, and what went wrong on them: failed scripts, dialogs, requests to others."""

    def __init__(self, browser):
        self._browser, self._contexts, self.wrong = browser, [], []

    def __call__(self, server, *, wait=True, allow=(), **how):
        """The page, once it knows its model, or at once. allow: words of console messages that are expected. how: see new_context."""
        context = self._browser.new_context(**how)
        self._contexts.append(context)
        page = context.new_page()

        def console(message):
            if message.type in ("error", "warning") and not any(word in message.text for word in allow):
                self.wrong.append(message.text)

        page.on("console", console)
        page.on("pageerror", lambda error: self.wrong.append(str(error)))
        page.on("dialog", lambda dialog: self.wrong.append(dialog.message))
        page.on("request", lambda request: request.url.startswith((server.url, "data:")) or self.wrong.append(request.url))
        page.goto(server.url + "/")
        if wait:
            until(page, "document.getElementById('model').textContent !== ''")
        return page

    def close(self):
        for context in self._contexts:
            context.close()


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
    until(page, "running === null")
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
