"""The chat page in a browser: what a user does, and what must not happen to them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator

import pytest
from live_server import Told, make_engine, wait_until

from tempa.align.records import load_pairs

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    if BROWSER is None:
        pytest.skip("no chromium on this machine")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser) -> Iterator[object]:
    """A tab whose errors fail the test, breaches of the page's own policy among them."""
    tab = browser.new_page(viewport={"width": 800, "height": 900})
    wrong: list[str] = []
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("console", lambda line: wrong.append(line.text) if "Content Security" in line.text else None)
    yield tab
    tab.close()
    assert not wrong


def say(page, text: str) -> None:
    page.get_by_label("Message").fill(text)
    page.get_by_role("button", name="Send").click()


def is_done(page) -> None:
    playwright.expect(page.locator("#stop")).to_be_hidden()


def test_votes_on_two_answers_make_a_pair(start, page, tmp_path) -> None:
    file = tmp_path / "pairs.jsonl"
    live = start(make_engine(), preferences=file)
    page.goto(live.url)
    playwright.expect(page.locator("#model")).to_have_text("tiny")
    page.locator("summary").click()
    page.get_by_label("Instruction").fill("Be brief.")
    page.get_by_label("New tokens").fill("20")
    say(page, "hello")
    is_done(page)
    page.get_by_role("button", name="Good answer").click()
    good = page.locator(".assistant .text").text_content()
    page.get_by_role("button", name="Another answer").click()
    is_done(page)
    bad = page.locator(".assistant .text").text_content()
    page.get_by_role("button", name="Bad answer").click()
    playwright.expect(page.locator(".note")).to_have_text("pair saved")
    page.screenshot(path=tmp_path / "page.png")
    [pair] = load_pairs(file)
    assert [message["content"] for message in pair.messages] == ["Be brief.", "hello"]
    assert (pair.chosen, pair.rejected) == (good, bad)
    page.get_by_role("button", name="Earlier answer").click()
    playwright.expect(page.locator(".tools")).to_contain_text("1 of 2")
    assert page.locator(".assistant .text").text_content() == good


def test_stop_ends_the_answer_on_the_server_too(start, page) -> None:
    engine = Told("word ")
    live = start(engine, max_tokens=90_000)
    page.goto(live.url)
    engine.is_open = False
    say(page, "hello")
    wait_until(lambda: engine.num_running == 1)
    page.get_by_role("button", name="Stop").click()
    playwright.expect(page.locator(".note")).to_have_text("stopped")
    wait_until(lambda: engine.num_running == 0)
    engine.is_open = True
    page.get_by_label("Message").press("Enter")  # nothing is written, so nothing is sent
    assert page.locator("section").count() == 1


def test_html_of_a_model_is_shown_as_text(start, page) -> None:
    live = start(Told("<img src=x onerror=alert(1)><script>alert(2)</script>"), max_tokens=256)
    page.on("dialog", lambda dialog: pytest.fail(f"a script ran: {dialog.message}"))
    page.goto(live.url)
    page.locator("summary").click()
    page.get_by_label("New tokens").fill("1")
    say(page, "<b>bold</b>")
    is_done(page)
    assert page.locator("main img, main script, main b").count() == 0
    playwright.expect(page.locator(".assistant .text")).to_contain_text("<script>alert(2)</script>")


def test_a_key_is_asked_for_and_kept_in_the_tab(start, page) -> None:
    live = start(Told(), api_key="key")
    page.goto(live.url)
    playwright.expect(page.get_by_role("alert")).to_have_text(re.compile("the API key is missing"))
    page.get_by_label("API key").fill("key")
    page.get_by_label("API key").press("Tab")
    playwright.expect(page.locator("#model")).to_have_text("tiny")
    page.reload()
    playwright.expect(page.locator("#model")).to_have_text("tiny")
