"""`ls` lists what is there, whatever state it is in."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeps.records.experiment import Experiment

Make = Callable[..., Experiment]


def test_each_experiment_is_listed_with_its_state_oldest_first(
    program: Callable, make_experiment: Make, complete: Callable[..., None], tmp_path: Path
) -> None:
    make_experiment(id="20260102_120000_toy").lock()
    done_one = make_experiment()
    for trial in done_one.plan.trials:
        complete(done_one, trial.name)
    make_experiment(id="mine")
    done = program("ls")
    assert (done.code, done.err) == (0, f"in {tmp_path}/storage\n")
    assert [line.split() for line in done.out.splitlines()] == [
        ["experiment", "sweep", "state", "started", "(UTC)"],
        ["20260101_120000_toy", "toy", "completed", "2026-01-01", "12:00"],
        ["20260102_120000_toy", "toy", "running", "2026-01-01", "12:00"],
        ["mine", "toy", "interrupted", "2026-01-01", "12:00"],
    ]


def test_json_has_the_five_promised_keys(program: Callable, make_experiment: Make) -> None:
    experiment = make_experiment()
    done = program("ls", "--json")
    assert done.err == ""
    assert json.loads(done.out)["experiments"] == [
        {
            "id": "20260101_120000_toy",
            "path": experiment.uri,
            "sweep": "toy",
            "state": "interrupted",
            "started_utc": "2026-01-01T12:00:00.000000Z",
        }
    ]


def test_a_damaged_experiment_is_listed_and_named_and_stops_nothing(
    program: Callable, make_experiment: Make, complete: Callable[..., None], tmp_path: Path
) -> None:
    make_experiment(id="a")
    (tmp_path / "storage" / "a" / "manifest.json").write_text("{")
    complete(make_experiment(id="b"), "static-b1")
    (tmp_path / "storage" / "b" / "manifest.json").unlink()
    make_experiment(id="c").trial("static-b1").start_attempt(num_workers=2)
    (tmp_path / "storage" / "c" / "trials" / "static-b1" / "attempts" / "000.json").write_bytes(b"\0")
    make_experiment(id="d")
    (tmp_path / "storage" / "no_experiment").mkdir()
    (tmp_path / "storage" / "file").write_text("")
    done = program("ls", "--json")
    assert done.code == 0
    assert [(e["id"], e["state"], e["sweep"]) for e in json.loads(done.out)["experiments"]] == [
        ("a", "damaged", None),
        ("b", "damaged", None),
        ("c", "interrupted", "toy"),  # one damaged trial does not take the others away
        ("d", "interrupted", "toy"),
    ]
    warnings = done.err.splitlines()
    assert len(warnings) == 3
    assert warnings[0].startswith(f"warning: a: {tmp_path}/storage/a/manifest.json is damaged")
    assert "holds no manifest.json" in warnings[1]
    assert "000.json is damaged" in warnings[2]


def test_a_renamed_experiment_is_listed_under_the_name_that_finds_it(
    program: Callable, make_experiment: Make, tmp_path: Path
) -> None:
    Path(make_experiment(id="before").uri).rename(tmp_path / "storage" / "after")
    assert json.loads(program("ls", "--json").out)["experiments"][0]["id"] == "after"
    assert program("status", "after").code == 0


def test_no_storage_yet_is_an_empty_list(program: Callable, tmp_path: Path) -> None:
    done = program("ls", "--json")
    assert (done.code, json.loads(done.out)["experiments"]) == (0, [])
    done = program("ls")
    assert (done.code, done.out) == (0, "")
    assert done.err.startswith(f"no experiments in {tmp_path}/storage; ")
    assert not (tmp_path / "storage").exists()


def test_it_needs_neither_torch_ray_nor_pyarrow(make_experiment: Make, tmp_path: Path) -> None:
    make_experiment()
    script = (
        "import sys; from cli.main import app; app(['ls', '--storage', sys.argv[1]], standalone_mode=False); "
        "print([name for name in ('torch', 'ray', 'pyarrow', 'numpy', 'rich') if name in sys.modules])"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "storage")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def starting(make_experiment: Make, tmp_path: Path, id: str, created_utc: object) -> None:
    """An experiment with whatever was recorded as its start."""
    make_experiment(id=id)
    manifest = tmp_path / "storage" / id / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"created_utc": created_utc}))


def test_the_order_is_that_of_the_recorded_start_whatever_the_names(
    program: Callable, make_experiment: Make, tmp_path: Path
) -> None:
    starting(make_experiment, tmp_path, "a", "2026-03-01T00:00:00.000000Z")
    starting(make_experiment, tmp_path, "b", "2026-01-01T00:00:00.000000Z")
    starting(make_experiment, tmp_path, "z", "2025-12-31T23:59:59.999999Z")
    starting(make_experiment, tmp_path, "c", "2026-01-01T00:00:00.000000Z")
    assert [each["id"] for each in json.loads(program("ls", "--json").out)["experiments"]] == ["z", "b", "c", "a"]
    assert [line.split()[0] for line in program("ls").out.splitlines()[1:]] == ["z", "b", "c", "a"]


@pytest.mark.parametrize(
    "created", ["", "yesterday", "9999-12-31T23:59:59+00:01", "0001-01-01T00:00:00+23:00", "2026-13-01"]
)
def test_a_start_that_is_no_time_is_listed_first_and_stops_nothing(
    created: str, program: Callable, make_experiment: Make, tmp_path: Path
) -> None:
    make_experiment(id="a")
    starting(make_experiment, tmp_path, "b", created)
    done = program("ls")
    assert done.code == 0
    assert [line.split()[0] for line in done.out.splitlines()[1:]] in (["b", "a"], ["a", "b"])
    assert {each["id"] for each in json.loads(program("ls", "--json").out)["experiments"]} == {"a", "b"}
