"""The HTML report is one safe file: everything is inside, every name is escaped, and it stays small."""

import base64
import dataclasses
import hashlib
import re
from collections.abc import Callable
from html.parser import HTMLParser

import pytest

from sweeps.records.documents import AttemptError
from sweeps.records.experiment import Experiment
from sweeps.records.rows import StepRow
from sweeps.results.measures.snapshot import Snapshot, TrialSnapshot, read_snapshot
from sweeps.results.report.build import build_report, markdown_files
from sweeps.results.report.html import render_html
from tests.helpers.failing import fail_attempt

Make = Callable[..., Experiment]
MakeRow = Callable[..., StepRow]
Complete = Callable[..., None]
HOSTILE = """<script>alert(1)</script>"'><img src=x onerror=alert(2)>&amp;`|]](http://evil)\x00\u202e{{ 7*7 }}"""


class Elements(HTMLParser):
    """All start tags with their attributes, and all text, as a browser would see them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture
def snapshot(make_experiment: Make, complete: Complete, make_row: MakeRow) -> Snapshot:
    """Two completed legs, one that failed, one that waits."""
    experiment = make_experiment()
    for name in ("static-b1", "static_cap1p25-b1"):
        complete(experiment, name, [make_row(s, trial=name) for s in range(40)])
    failed = experiment.trial("bf16-b1")
    fail_attempt(failed, "OutOfMemoryError", "no memory")
    return read_snapshot(experiment)


def hostile(snapshot: Snapshot) -> Snapshot:
    """The same with a hostile text wherever a text is stored."""
    legs = {leg.name: dataclasses.replace(leg, name=leg.name + HOSTILE) for leg in snapshot.plan.legs}

    def renamed(trial: TrialSnapshot) -> TrialSnapshot:
        error = AttemptError(type=HOSTILE, message=HOSTILE, traceback=HOSTILE)
        facts = {"device": "cpu", "device_name": HOSTILE, "compile_cache": HOSTILE, "backends": {HOSTILE: HOSTILE}}
        attempts = [
            dataclasses.replace(a, host=HOSTILE, facts=facts, error=error if a.error else None) for a in trial.attempts
        ]
        planned = dataclasses.replace(trial.trial, leg=legs[trial.trial.leg.name], name=HOSTILE)
        return dataclasses.replace(trial, trial=planned, run=HOSTILE, attempts=attempts, log_name=HOSTILE)

    manifest = dataclasses.replace(
        snapshot.manifest, id=HOSTILE, sweep=HOSTILE, argv=[HOSTILE], versions={HOSTILE: HOSTILE}, git_commit=HOSTILE
    )
    plan = dataclasses.replace(snapshot.plan, question=HOSTILE, legs=tuple(legs.values()))
    trials = [renamed(trial) for trial in snapshot.trials]
    return dataclasses.replace(snapshot, manifest=manifest, plan=plan, trials=trials, torn_files=(HOSTILE,))


def page(*snapshots: Snapshot) -> str:
    return render_html(build_report(snapshots))


def test_nothing_is_fetched_from_anywhere(snapshot: Snapshot) -> None:
    for tag, attributes in Elements(page(snapshot)).tags:
        assert tag not in ("iframe", "object", "embed", "base", "audio", "video", "source", "img", "image", "use")
        for name in ("src", "href", "xlink:href", "srcset", "action", "background"):
            target = attributes.get(name)
            assert target is None or target == "data:," or target.startswith("#"), (tag, target)
        assert "style" not in attributes, "the policy would refuse it"
        assert not [name for name in attributes if name.startswith("on")]
    assert "url(" not in page(snapshot)
    assert "@import" not in page(snapshot)


def test_the_policy_admits_this_style_and_this_script_and_no_request(snapshot: Snapshot) -> None:
    text = page(snapshot)
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert policy.startswith("default-src 'none'; img-src data:;")
    for tag in ("style", "script"):
        (body,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_hostile_names_are_text_and_nothing_else(snapshot: Snapshot) -> None:
    bad = hostile(snapshot)
    harmless, attacked = Elements(page(snapshot)), Elements(page(bad, bad))
    assert {tag for tag, _ in attacked.tags} <= {tag for tag, _ in harmless.tags} | {"strong"}
    assert sum(tag == "script" for tag, _ in attacked.tags) == 1
    assert not [a for _, attributes in attacked.tags for a in attributes if a.startswith("on")]
    assert "".join(attacked.texts).count("<script>alert(1)</script>") > 10
    assert "{{ 7*7 }}" in "".join(attacked.texts)


def test_hostile_names_are_text_in_markdown_and_figures_too(snapshot: Snapshot) -> None:
    for name, body in markdown_files(build_report([hostile(snapshot)]), "report.md").items():
        if name.endswith(".svg"):
            assert "<script>" not in body
            continue
        unescaped = re.sub(r"(`+).*?(?<!`)\1(?!`)", "", re.sub(r"\\.", "", body))
        assert "<" not in unescaped
        assert "](http" not in unescaped


def test_the_same_data_gives_the_same_bytes(snapshot: Snapshot) -> None:
    assert page(snapshot) == page(snapshot)
    assert page(snapshot, snapshot) == page(snapshot, snapshot)


def test_ids_are_unique_and_every_figure_has_title_and_description(snapshot: Snapshot) -> None:
    elements = Elements(page(snapshot)).tags
    ids = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    figures = [attributes for tag, attributes in elements if tag == "svg" and attributes.get("role") == "img"]
    assert len(figures) == 10  # five, for wide and for narrow pages
    assert all(part in ids for attributes in figures for part in (attributes["aria-labelledby"] or "").split())


def test_verdict_and_time_to_loss_come_before_every_table(snapshot: Snapshot) -> None:
    text = page(snapshot)
    places = [text.index(f) for f in ("ADVISORY", "time to the baseline&#39;s loss", "figure-effect", 'id="runs"')]
    assert places == sorted(places)
    assert text.index("<table") > places[-1]
    anchors = ["runs", "gates", "legs", "figures", "compile", "interruptions", "provenance", "artifacts"]
    assert re.findall(r'<section id="(\w+)"', text) == anchors


def test_an_experiment_that_has_not_begun_has_a_page(make_experiment: Make) -> None:
    text = page(read_snapshot(make_experiment()))
    assert "cannot be compared yet" in text
    assert "No steps yet" in text


def test_twenty_legs_in_four_blocks_stay_under_500_kb(large_snapshot: Snapshot) -> None:
    assert len(large_snapshot.plan.legs) == 20
    assert len(page(large_snapshot).encode()) < 500_000
