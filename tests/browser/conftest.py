"""A real Chromium with a fresh profile, and reports on disk for it to open."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, sync_playwright

from sweeps.records.experiment import Experiment
from sweeps.records.rows import StepRow
from sweeps.results.measures.snapshot import Snapshot, read_snapshot
from sweeps.results.report.build import write_chosen
from tests.helpers.failing import fail_attempt

QUIET = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """The machine's own Chromium, headless. Without one the tests are skipped, except in CI."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None and not os.environ.get("CI"):
        pytest.skip("no Chromium on this machine; on Debian: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture
def small_page(
    make_experiment: Callable[..., Experiment], make_row: Callable[..., StepRow], complete: Callable[..., None]
) -> Path:
    """A report of four legs: two completed, one failed, one not begun; the question and an error are hostile."""
    experiment = make_experiment()
    for name, dt_ms in (("static-b1", 200.0), ("static_cap1p25-b1", 100.0)):
        rows = [make_row(s, trial=name, dt_ms=dt_ms, tok_per_sec=512_000 / dt_ms) for s in range(40)]
        complete(experiment, name, rows)
    trial = experiment.trial("none_cap1p25-b1")
    fail_attempt(trial, "Error", "<img src=x onerror='document.title=1'>")
    snapshot = read_snapshot(experiment)
    plan = replaced(snapshot.plan, question="</p><script>document.title = 2</script>")
    return written(replaced(snapshot, plan=plan), Path(experiment.uri))


@pytest.fixture(scope="session")
def large_page(large_snapshot: Snapshot, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of twenty legs in four blocks."""
    return written(large_snapshot, tmp_path_factory.mktemp("large"))


def written(snapshot: Snapshot, folder: Path) -> Path:
    """The HTML report of a snapshot, with the Markdown and its figures next to it."""
    _, page = write_chosen([snapshot], folder / "page.md", folder / "page.html")
    return Path(page)


def replaced(value: Any, **changes: Any) -> Any:
    """A frozen dataclass with some fields changed."""
    return type(value)(**(vars(value) | changes))
