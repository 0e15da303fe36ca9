"""The report in Chromium, as a person uses it: opened as a file, without a network."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from avprep.report.build import write_report
from avprep.report.config import ReportConfig
from avprep.shards.ledger import Sums, read_ledgers
from avprep.shards.store import open_store
from tests.avprep.report.made_output import LABELS, write_output

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (apt-get install chromium)"),
    pytest.mark.timeout(180),
]
# Runs in the page: resolves to the directive that the policy reports for what `act` does.
VIOLATION = """act => new Promise(resolve => {
    document.addEventListener("securitypolicyviolation", event => resolve(event.effectiveDirective));
    eval(act); setTimeout(() => resolve("nothing was blocked"), 3000); })"""


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    return write_output(tmp_path_factory.mktemp("browser") / "out")


@pytest.fixture(scope="module", params=["folder", "single file"])
def address(out, request) -> str:
    is_single = request.param == "single file"
    to = out.with_name("one.html" if is_single else "report")
    return write_report(str(out), to, ReportConfig(is_single_file=is_single))[0].as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with playwright.sync_playwright() as driver:
        options = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=options)
        yield chromium
        chromium.close()


@contextmanager
def opened(browser, address: str, **options) -> Iterator:
    """The page; at the end, that it wrote no error and asked for nothing but files."""
    context = browser.new_context(**options)
    page, errors, requests = context.new_page(), [], []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(address)
    yield page
    context.close()
    assert errors == []
    assert requests and {url.partition(":")[0] for url in requests} <= {"file", "data"}


def seen(page) -> int:
    return page.locator(".card:visible").count()


def test_the_counts_are_the_ledgers_and_every_picture_loads(browser, address, out):
    sums = Sums()
    for _, rows, _ in read_ledgers(open_store(out)):
        sums.add(rows)
    with opened(browser, address) as page:
        table = page.locator("[data-step]")
        found = dict(table.evaluate_all("cells => cells.map(c => [c.dataset.step, Number(c.dataset.count)])"))
        assert found == {
            "planned": 12,
            "in the ledger": sums.planned,
            **sums.by_status,
            **sums.by_reason,
            "selected: loud": 4,
        }
        assert seen(page) == sums.by_status["written"]
        widths = page.evaluate("[...document.images].map(image => image.naturalWidth)")
        assert len(widths) == 2 * seen(page) and min(widths) > 0
        assert page.evaluate("window.hostile") is None


def test_a_clip_plays_to_its_end_with_sound_and_the_playhead_follows(browser, address):
    with opened(browser, address) as page:
        card = page.locator(".card").nth(1)
        card.focus()
        page.keyboard.press("Space")
        video = card.locator("video")
        video.evaluate("v => v.ended || new Promise(resolve => v.addEventListener('ended', resolve))")
        length = video.evaluate("v => v.duration")
        assert video.evaluate("v => v.currentTime") == pytest.approx(length) == pytest.approx(1.6, abs=0.05)
        assert video.evaluate("v => v.webkitAudioDecodedByteCount") > 0
        assert video.evaluate("v => v.webkitDecodedFrameCount") > 0
        card.locator(".playhead[x1='100%']").wait_for(state="attached")


def test_filters_show_the_clips_that_match(browser, address):
    with opened(browser, address) as page:
        page.fill("#text", "CAPTION 1 &")
        assert seen(page) == 1 and page.inner_text("#shown") == "1 of 8 clips"
        page.click("button[type=reset]")
        playwright.expect(page.locator("#shown")).to_have_text("8 of 8 clips")
        page.select_option("#label", label=LABELS[0])
        assert seen(page) == 4
        page.select_option("#label", "")
        page.select_option("#score", label="loudness")
        page.fill("#least", "-13")
        page.fill("#most", "-11")
        assert seen(page) == 3


def test_the_keyboard_moves_searches_and_plays(browser, address):
    active = "[...document.querySelectorAll('.card')].indexOf(document.activeElement)"
    with opened(browser, address, viewport={"width": 1000, "height": 800}) as page:
        columns = page.evaluate(
            "(cards => cards.filter(c => c.offsetTop === cards[0].offsetTop).length)"
            "([...document.querySelectorAll('.card')])"
        )
        for key, place in (("Right", 0), ("Right", 1), ("Down", 1 + columns), ("Left", columns), ("Up", 0)):
            page.keyboard.press(f"Arrow{key}")
            assert page.evaluate(active) == place
        page.keyboard.press("/")
        page.keyboard.type("caption / 0")
        assert page.input_value("#text") == "caption / 0" and seen(page) == 0
        page.fill("#text", "")
        page.keyboard.press("Escape")
        assert page.evaluate("document.activeElement === document.body")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling(browser, address, theme):
    with opened(browser, address, viewport={"width": 360, "height": 740}, color_scheme=theme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_the_theme_is_the_systems_until_the_button_is_pressed(browser, address):
    paper = "getComputedStyle(document.body).backgroundColor"
    with opened(browser, address, color_scheme="light") as page:
        light = page.evaluate(paper)
        page.click("#theme")
        dark = page.evaluate(paper)
    with opened(browser, address, color_scheme="dark") as page:
        assert page.evaluate(paper) == dark != light
        page.click("#theme")
        assert page.evaluate(paper) == light


@pytest.mark.parametrize("theme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
def test_axe_finds_no_serious_fault(browser, address, theme):
    axe = pytest.importorskip("axe_core_python.sync_playwright", reason="axe-core-python is not installed")
    with opened(browser, address, color_scheme=theme) as page:
        found = axe.Axe().run(page)["violations"]
        serious = [fault for fault in found if fault["impact"] in ("serious", "critical")]
        assert [(fault["id"], fault["nodes"][0]["html"][:200]) for fault in serious] == []


@pytest.mark.parametrize(
    ("act", "directive"),
    [
        ("fetch('https://example.invalid/')", "connect-src"),
        ("new Image().src = 'https://example.invalid/x.png'", "img-src"),
        ("document.body.setAttribute('onclick', 'window.hostile = 3'); document.body.click()", "script-src"),
        ("document.head.append(Object.assign(document.createElement('script'), {text: '1'}))", "script-src"),
    ],
    ids=["connection", "picture", "handler", "script"],
)
def test_the_policy_blocks(browser, address, act, directive):
    context = browser.new_context()
    page = context.new_page()
    page.goto(address)
    # The test's own eval would be blocked: a function of the protocol is not.
    blocked = page.evaluate(VIOLATION.replace("eval(act)", act), act)
    assert blocked.startswith(directive)
    assert page.evaluate("window.hostile") is None
    context.close()
