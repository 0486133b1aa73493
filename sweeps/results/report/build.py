"""The report in two forms, Markdown with figures next to it and one HTML file: pure functions of the stored data.

No time of generation, no absolute path, fixed digits and order: a committed report changes only where numbers changed.
Both forms are written from the same blocks. Several experiments make one summary, whose legs are held against the
baseline of their own experiment; the figures but the main one stay in each experiment's own report.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath

from sweeps.records.experiment import Experiment
from sweeps.records.home import check_on_disk
from sweeps.records.store import Store
from sweeps.results.measures.snapshot import Snapshot, read_snapshot
from sweeps.results.report.blocks import Block, Code, Figure, Paragraph, Report, Section, folded
from sweeps.results.report.figures.draw import block_figure, dt_figure, effect_figure, loss_figure, memory_figure
from sweeps.results.report.headline import candidate_facts, cpu_warning, fp8_facts, verdict
from sweeps.results.report.html import render_html
from sweeps.results.report.markdown import render_markdown
from sweeps.results.report.sections.across import across, listed, listed_if_any
from sweeps.results.report.sections.compiling import compile_table, fallback_lines
from sweeps.results.report.sections.gates import gate_blocks
from sweeps.results.report.sections.interruptions import damage_lines, interruption_lines, move_lines, skipped_lines
from sweeps.results.report.sections.phases import phase_sections
from sweeps.results.report.sections.preflight import preflight_sections
from sweeps.results.report.sections.provenance import artifact_lines, imported_lines, origin_lines, provenance_table
from sweeps.results.report.sections.ratios import barred_lines, code_lines, ratio_note, ratio_table, untimed_lines
from sweeps.results.report.sections.routing import routing_sections
from sweeps.results.report.sections.runs import diverged_lines, tail_lines, trial_table
from sweeps.results.report.sections.texts import text_lines
from sweeps.results.report.sections.throttling import throttling_sections
from sweeps.results.tables.parquet import export_running, export_store
from sweeps.spec.errors import UsageError

_MOST_ROWS, _SHOWN_ROWS = 24, 12  # a longer table or list shows the second, the rest is folded away
MARKDOWN_NAME, HTML_NAME = "report.md", "report.html"


def write_report(experiment: Experiment) -> list[str]:
    """Writes both forms into EXP/report; their addresses, Markdown first."""
    return write_snapshots([read_snapshot(experiment)], Store(experiment.store.uri_of("report")))


def write_snapshots(snapshots: Sequence[Snapshot], folder: Store) -> list[str]:
    """Writes both forms of the report of one or several experiments into a folder; their addresses."""
    in_place = len(snapshots) == 1 and folder.uri == Store(snapshots[0].uri or "/").uri_of("report")
    report = build_report(snapshots, in_place=in_place)
    for file, body in (markdown_files(report, MARKDOWN_NAME) | {HTML_NAME: render_html(report)}).items():
        folder.write(file, file_bytes(body))
    return [folder.uri_of(MARKDOWN_NAME), folder.uri_of(HTML_NAME)]


def write_chosen(snapshots: Sequence[Snapshot], out_md: Path | None, out_html: Path | None) -> list[str]:
    """Writes the forms that have a place; their addresses. Raises UsageError for a place without a file's name."""
    for option, place in (("--out-md", out_md), ("--out-html", out_html)):
        if place is not None:
            check_on_disk(option, place)
            if not place.name:
                raise UsageError(f"{option} {place} is a folder; give the file to write, like {place / 'report'}.md")
    if out_md is not None and out_html is not None and out_md.absolute() == out_html.absolute():
        raise UsageError(f"--out-md and --out-html both name {out_md}; give each its own file")
    report = build_report(snapshots)
    written: list[str] = []
    if out_md is not None:
        for file, body in markdown_files(report, out_md.name).items():
            Store(str(out_md.parent)).write(file, file_bytes(body))
        written.append(Store(str(out_md.parent)).uri_of(out_md.name))
    if out_html is not None:
        Store(str(out_html.parent)).write(out_html.name, file_bytes(render_html(report)))
        written.append(Store(str(out_html.parent)).uri_of(out_html.name))
    return written


def refresh(experiment: Experiment) -> Snapshot:
    """Writes export and report of the present moment and returns it; what a run calls after each leg."""
    snapshot = read_snapshot(experiment, keep=True)
    export_running(snapshot, export_store(experiment, None))
    write_snapshots([snapshot], Store(experiment.store.uri_of("report")))
    return snapshot


def file_bytes(text: str) -> bytes:
    """UTF-8; what a stored name holds that is not a character becomes an escape."""
    return text.encode(errors="backslashreplace")


def markdown_files(report: Report, name: str) -> dict[str, str]:
    """The figures and then the Markdown that shows them, by file name."""
    stem = PurePosixPath(name).stem
    blocks = [*report.lead, *(block for section in report.sections for block in section.blocks)]
    figures = [block for block in blocks if isinstance(block, Figure)]
    places = {figure.key: f"{stem}-{figure.key}.svg" for figure in figures}
    drawn = {places[figure.key]: figure.wide.document() for figure in figures}
    return {**drawn, name: render_markdown(report, places)}


def build_report(snapshots: Sequence[Snapshot], *, in_place: bool = False) -> Report:
    """All that a report says of one experiment, or of several in one summary.

    `in_place`: it is written into the experiment's own folder, so it can link to the files there.
    """
    single = snapshots[0] if len(snapshots) == 1 else None
    several = single is None
    states = sorted({s.state for s in snapshots})
    sweeps = ", ".join(dict.fromkeys(s.manifest.sweep for s in snapshots))
    questions = dict.fromkeys(s.plan.question for s in snapshots if s.plan.question)
    return Report(
        title=(f"{sweeps}: ", Code(single.manifest.id)) if single else (f"{sweeps}: {len(snapshots)} experiments",),
        state=" / ".join(states),
        question=" ".join(questions),
        verdicts=[line for s in snapshots for line in verdict(s, named=several)],
        lead=[
            *cpu_warning(snapshots),
            *(block for s in snapshots for block in (*candidate_facts(s, named=several), *fp8_facts(s, named=several))),
            *_effects(snapshots),
        ],
        sections=[_short(section) for section in _sections(snapshots, single, in_place)],
    )


def _effects(snapshots: Sequence[Snapshot]) -> list[Block]:
    if len(snapshots) == 1:
        return [effect_figure(snapshots[0])]
    return [effect_figure(s, number=i, of=s.manifest.id) for i, s in enumerate(snapshots, 1)]


def _sections(snapshots: Sequence[Snapshot], single: Snapshot | None, in_place: bool) -> list[Section]:
    state = [Paragraph(words=(f"State of the experiment: {single.state}.",))] if single else []
    legs: list[Block] = [
        across(snapshots, ratio_table),
        ratio_note(snapshots),
        *listed_if_any(snapshots, barred_lines, code_lines, untimed_lines),
    ]
    compiled = [across(snapshots, compile_table), *listed_if_any(snapshots, fallback_lines)]
    interrupted = listed(snapshots, interruption_lines, "No trial was interrupted or failed.")
    cut = [interrupted, *listed_if_any(snapshots, move_lines, skipped_lines)]
    damaged = listed_if_any(snapshots, damage_lines)
    files = [
        Paragraph(words=("Paths are relative to the experiment's folder.",)),
        listed(snapshots, partial(artifact_lines, linked=in_place)),
    ]
    return [
        _section(
            "runs",
            "Runs",
            *state,
            across(snapshots, trial_table),
            *listed_if_any(snapshots, tail_lines, diverged_lines, text_lines),
        ),
        _section("gates", "Gates", *gate_blocks(snapshots)),
        _section("legs", "Legs against the baseline", *legs),
        *([_section("figures", "Figures", *_figures(single))] if single else []),
        *phase_sections(snapshots),
        *throttling_sections(snapshots),
        *routing_sections(snapshots),
        *preflight_sections(snapshots),
        _section("compile", "Compile and kernels", *compiled),
        _section("interruptions", "Interruptions and failures", *cut),
        *([_section("damage", "Damaged files", *damaged)] if damaged else []),
        _section(
            "provenance",
            "Provenance",
            across(snapshots, provenance_table),
            *listed_if_any(snapshots, origin_lines, imported_lines),
        ),
        _section("artifacts", "Artifacts", *files),
    ]


def _section(key: str, title: str, *blocks: Block) -> Section:
    return Section(key=key, title=title, blocks=blocks)


def _short(section: Section) -> Section:
    """A section whose long tables and lists show their beginning."""
    noun = {"runs": "trial", "legs": "leg"}.get(section.key, "line")
    parts = [part for block in section.blocks for part in folded(block, _MOST_ROWS, _SHOWN_ROWS, noun)]
    return replace(section, blocks=parts)


def _figures(snapshot: Snapshot) -> list[Figure]:
    return [loss_figure(snapshot), dt_figure(snapshot), memory_figure(snapshot), block_figure(snapshot)]
