"""The HTML report as people meet it: a file opened in a real browser, on any width, in light and dark, on paper."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Dialog, Page

pytestmark = pytest.mark.browser

WIDTHS = (360, 768, 1400)
Opener = Callable[..., Page]

# Pairs of texts of one figure that lie on each other, and texts that lie partly outside of their figure.
COLLISIONS = """() => [...document.querySelectorAll("svg.chart")].flatMap(svg => {
  if (!svg.getClientRects().length) return [];
  const outer = svg.getBoundingClientRect();
  const found = svg.querySelectorAll("tspan, text:not(:has(tspan))");
  const texts = [...found].map(t => [t.textContent, t.getClientRects()[0]]);
  const outside = texts.filter(([, r]) => r.left < outer.left - 1 || r.right > outer.right + 1);
  const bad = outside.map(([text]) => "outside: " + text);
  texts.forEach(([a, r], i) => texts.slice(i + 1).forEach(([b, q]) => {
    const wide = Math.min(r.right, q.right) - Math.max(r.left, q.left);
    const high = Math.min(r.bottom, q.bottom) - Math.max(r.top, q.top);
    if (wide > 1 && high > 4) bad.push(a + " on " + b);
  }));
  return bad;
})"""


@pytest.fixture
def opened(chromium: Browser) -> Iterator[Opener]:
    """Opens a file in its own window; all requests, errors and dialogs of it are in `page.seen`."""
    contexts: list[Any] = []

    def open_file(file: Path, *, width: int = 1400, scheme: str = "light", javascript: bool = True) -> Page:
        options: dict[str, Any] = {"viewport": {"width": width, "height": 900}, "color_scheme": scheme}
        context = chromium.new_context(java_script_enabled=javascript, **options)
        contexts.append(context)
        page = context.new_page()
        seen: list[str] = []
        page.on("request", lambda request: seen.append(request.url))
        page.on("console", lambda message: seen.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: seen.append(f"error: {error}"))

        def dismiss(dialog: Dialog) -> None:
            seen.append("dialog")
            dialog.dismiss()

        page.on("dialog", dismiss)
        page.goto(file.as_uri())
        page.wait_for_load_state("networkidle")
        page.seen = seen  # type: ignore[attr-defined]
        return page

    yield open_file
    for context in contexts:
        context.close()


def column(page: Page, table: str, index: int) -> list[str]:
    return page.locator(f"{table} tbody tr > :nth-child({index})").all_text_contents()


def sort_of(page: Page, table: str) -> list[str | None]:
    headings = page.locator(f"{table} table").first.locator("thead th")
    return [headings.nth(i).get_attribute("aria-sort") for i in range(headings.count())]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("which", ["small_page", "large_page"])
def test_it_opens_without_a_request_an_error_or_sideways_scrolling(
    opened: Opener, request: pytest.FixtureRequest, which: str, width: int, scheme: str
) -> None:
    file: Path = request.getfixturevalue(which)
    page = opened(file, width=width, scheme=scheme)
    assert page.seen == [file.as_uri()]  # type: ignore[attr-defined]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    paper, ink = page.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
    assert paper != ink
    shown = "narrow" if width <= 700 else "wide"
    for figure in page.locator("figure").all():
        assert [figure.locator(f".{w}").is_visible() for w in ("narrow", "wide")] == [
            shown == w for w in ("narrow", "wide")
        ]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("which", ["small_page", "large_page"])
def test_no_label_of_a_figure_lies_on_another_or_is_cut(
    opened: Opener, request: pytest.FixtureRequest, which: str, width: int
) -> None:
    assert opened(request.getfixturevalue(which), width=width).evaluate(COLLISIONS) == []


def test_hostile_texts_are_shown_and_do_nothing(opened: Opener, small_page: Path) -> None:
    page = opened(small_page)
    assert page.title() == "toy: 20260101_120000_toy"
    assert page.locator("img").count() == 0
    assert page.get_by_text("<script>document.title = 2</script>").is_visible()
    assert page.get_by_text("<img src=x onerror='document.title=1'>").first.is_visible()


def test_a_click_sorts_up_then_down_then_as_planned(opened: Opener, large_page: Path) -> None:
    page = opened(large_page)
    planned = column(page, "#runs", 8)
    button = page.locator("#runs thead button", has_text="dt_ms")
    button.click()
    assert sort_of(page, "#runs")[7] == "ascending"
    assert column(page, "#runs", 8) == sorted(planned, key=float)
    button.click()
    assert sort_of(page, "#runs")[7] == "descending"
    assert column(page, "#runs", 8) == sorted(planned, key=float, reverse=True)
    page.locator("#runs thead button").first.click()
    assert sort_of(page, "#runs") == ["ascending", *[None] * 9]
    page.locator("#runs thead button").first.click()
    page.locator("#runs thead button").first.click()
    assert sort_of(page, "#runs") == [None] * 10
    assert column(page, "#runs", 8) == planned


def test_the_keyboard_sorts_too_and_the_unknown_stays_last(opened: Opener, small_page: Path) -> None:
    page = opened(small_page)
    button = page.locator("#legs thead button", has_text="tok/s").first
    button.focus()
    page.keyboard.press("Enter")
    assert column(page, "#legs", 3) == ["+100 %", "-", "-", "-"]
    page.keyboard.press("Space")
    assert column(page, "#legs", 3) == ["+100 %", "-", "-", "-"]
    assert sort_of(page, "#legs")[2] == "descending"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "verdict"


def test_all_of_it_can_be_read_without_javascript(opened: Opener, small_page: Path) -> None:
    page = opened(small_page, javascript=False)
    assert page.locator("button").count() == 0
    assert page.locator("#runs tbody tr").count() == 4
    for text in ("ADVISORY", "time to the baseline's loss", "Peak memory", "Provenance"):
        assert page.get_by_text(text).first.is_visible()


def test_it_prints_in_light_colours_without_what_only_a_screen_needs(opened: Opener, small_page: Path) -> None:
    page = opened(small_page, width=360, scheme="dark")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.querySelector('.chart text')).fill") == "rgb(31, 35, 40)"
    assert not page.locator("nav").is_visible()
    assert page.locator("figure .wide").first.is_visible()
    paper = page.pdf(prefer_css_page_size=True)
    assert paper.startswith(b"%PDF-")
    assert 2 <= paper.count(b"/Type /Page\n") <= 12


@pytest.mark.parametrize("key", ["effect", "loss", "dt", "memory", "blocks"])
def test_a_figure_of_the_markdown_report_is_a_file_that_follows_the_theme(
    opened: Opener, large_page: Path, key: str
) -> None:
    file = large_page.with_name(f"page-{key}.svg")
    fills: list[str] = []
    for scheme in ("light", "dark"):
        page = opened(file, scheme=scheme)
        assert page.seen == [file.as_uri()]  # type: ignore[attr-defined]
        fills.append(page.evaluate("getComputedStyle(document.querySelector('text')).fill"))
    assert fills[0] != fills[1]


def violations(page: Page) -> list[str]:
    """What axe-core finds wrong for people who see, hear or move otherwise: rule and element."""
    found: Any = Axe().run(page).response
    return [f"{rule['id']}: {node['html'][:120]}" for rule in found["violations"] for node in rule["nodes"]]


@pytest.mark.parametrize(
    ("which", "scheme"), [("small_page", "light"), ("small_page", "dark"), ("large_page", "light")]
)
def test_axe_finds_nothing(opened: Opener, request: pytest.FixtureRequest, which: str, scheme: str) -> None:
    page = opened(request.getfixturevalue(which), scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    assert violations(page) == []


def test_what_is_folded_away_is_sorted_with_its_table_and_printed(opened: Opener, large_page: Path) -> None:
    page = opened(large_page)
    assert page.locator("#runs tbody tr").count() == 80
    assert page.locator("#runs tbody tr:visible").count() == 12
    page.locator("#runs summary").click()
    assert page.locator("#runs tbody tr:visible").count() == 80
    assert page.get_by_text("68 further trials").is_visible()


@pytest.mark.parametrize("width", [360, 820, 1400])
def test_texts_of_figures_can_be_read(opened: Opener, large_page: Path, width: int) -> None:
    sizes = opened(large_page, width=width).evaluate(
        """() => [...document.querySelectorAll("svg.chart")].filter((svg) => svg.getClientRects().length).flatMap(
          (svg) => [...svg.querySelectorAll("text")].map((text) =>
            parseFloat(getComputedStyle(text).fontSize) * svg.getBoundingClientRect().width / svg.viewBox.baseVal.width)
        )"""
    )
    assert len(sizes) > 50
    assert min(sizes) >= 11


def test_a_figures_file_has_its_own_paper_whatever_is_behind_it(opened: Opener, large_page: Path) -> None:
    for scheme, paper in (("light", "rgb(255, 255, 255)"), ("dark", "rgb(13, 17, 23)")):
        page = opened(large_page.with_name("page-effect.svg"), scheme=scheme)
        rect = page.locator("svg > rect").first
        assert rect.evaluate("(element) => getComputedStyle(element).fill") == paper
        box, whole = rect.bounding_box(), page.locator("svg").first.bounding_box()
        assert box is not None
        assert box == whole
