"""Whatever a user types or has lying around: an exit code, one sentence, and nothing left behind.

Each row of a table is one mistake. `{}` in a word is the test's folder.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeps.records.experiment import Experiment
from sweeps.records.owner import Owner

Make = Callable[..., Experiment]
GOOD = '''"""Does it matter?"""
from nanochat.recipes import d12_moe
from sweeps.spec import Axis, Sweep, TailWindow
SWEEP = Sweep(
    name="good", base=d12_moe(num_steps=40), num_workers=2, checkpoint_every=10,
    axes=[Axis("moe.capacity_factor", [None, 1.0])],
    baseline={"moe.capacity_factor": None}, candidate={"moe.capacity_factor": 1.0}, window=TailWindow(num_steps=10),
)
'''


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """What should be rejected is not let through to where it would cost a minute."""

    def start(*_: object, **__: object) -> None:
        raise AssertionError("a Ray cluster would be started")

    monkeypatch.setattr("sweeps.engine.launch.connected", start)


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every file and folder below, with what it holds; without the list of past owners, which only grows."""
    found = [path for path in folder.rglob("*") if "lock" not in path.parts]
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in found}


def check_refused(program: Callable[..., Any], words: list[str | Path], code: int, sentence: str, folder: Path) -> str:
    """Runs the program, which must end with one sentence and leave the folder as it was."""
    before = tree(folder)
    done = program(*words)
    assert (done.code, done.out) == (code, ""), done.err
    assert "Traceback" not in done.err
    error = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert len(error) == 1, done.err
    assert sentence in error[0]
    assert tree(folder) == before
    return done.err


SWEEP_FILES: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "the file defines no SWEEP"),
    "another name": (GOOD.replace("SWEEP =", "SWEP ="), "defines no SWEEP; did you mean SWEP?"),
    "no sweep": ("SWEEP = 3", "SWEEP must be a sweeps.spec.Sweep, it is a int"),
    "syntax": ("SWEEP = Sweep(", ":1: syntax error: '(' was never closed"),
    "binary": (bytes(range(256)) * 10, "syntax error"),
    "zero bytes": (b"SWEEP = 1\0\0", "null byte"),
    "latin-1": ("SWEEP = 'é'".encode("latin-1"), "syntax error"),
    "raises": ("raise RuntimeError('no')", ":1: RuntimeError: no"),
    "exits": ("import sys\nsys.exit(0)", ":2: SystemExit: 0"),
    "recursion": ("def f(): return f()\nf()", "RecursionError"),
    "missing import": ("import no_such_module", ":1: ModuleNotFoundError: No module named 'no_such_module'"),
    "unknown field": (GOOD.replace("capacity_factor", "capacity_fator"), "did you mean moe.capacity_factor?"),
    "ill-typed value": (GOOD.replace("[None, 1.0]", "[None, 'many']"), ":4: "),
    "no axes' values": (GOOD.replace("[None, 1.0]", "[]"), ":6: "),
    "baseline outside the grid": (
        GOOD.replace('baseline={"moe.capacity_factor": None}', 'baseline={"moe.capacity_factor": 9.0}'),
        ":4: ",
    ),
    "name with a slash": (GOOD.replace('name="good"', 'name="a/b"'), "'a/b' cannot name a folder"),
    "name with a space": (GOOD.replace('name="good"', 'name="a b"'), "'a b' cannot name a folder"),
    "name in unicode": (GOOD.replace('name="good"', 'name="größe"'), "'größe' cannot name a folder"),
    "huge": ("# nothing\n" * 500_000, "the file is 5.0 MB large"),
}


@pytest.mark.parametrize("verb", ["plan", "launch"])
@pytest.mark.parametrize("case", SWEEP_FILES)
def test_a_sweep_file_that_is_none(case: str, verb: str, program: Callable, tmp_path: Path) -> None:
    text, sentence = SWEEP_FILES[case]
    file = tmp_path / "bad.py"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    err = check_refused(program, [verb, file], 2, sentence, tmp_path)
    assert f"error: {file}" in err


PLACES = {
    "missing": ("{}/none.py", "no sweep at '{}/none.py' (no such file)"),
    "a folder": ("{}", "(a folder)"),
    "an unknown name": ("capasity", "did you mean capacity?"),
    "nothing": ("", "no sweep at ''"),
    "a device": ("/dev/zero", "no sweep at '/dev/zero'"),
}


@pytest.mark.parametrize("case", PLACES)
def test_a_sweep_that_is_not_there(case: str, program: Callable, tmp_path: Path) -> None:
    place, sentence = (text.replace("{}", str(tmp_path)) for text in PLACES[case])
    check_refused(program, ["plan", place], 2, sentence, tmp_path)


def test_a_file_with_spaces_and_unicode_in_its_path_is_fine(program: Callable, tmp_path: Path) -> None:
    folder = tmp_path / "my sweeps"
    folder.mkdir()
    (folder / "größe 1.py").write_text(GOOD)
    done = program("plan", folder / "größe 1.py", "--num-steps", "24", "--set", "data.total_batch_tokens=131072")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("good: Does it matter?")


def test_what_a_sweep_file_prints_is_not_data(program: Callable, tmp_path: Path) -> None:
    (tmp_path / "chatty.py").write_text("print('hello')\n" + GOOD)
    done = program("plan", tmp_path / "chatty.py", "--json")
    assert done.code == 0
    assert json.loads(done.out)["sweep"] == "good"
    assert done.err == "hello\n"


FLAGS = {
    "workers that do not divide": (("--num-workers", "3"), "leg exact: "),
    "no workers": (("--num-workers", "0"), "num_workers"),
    "negative workers": (("--num-workers", "-2"), "num_workers"),
    "workers in words": (("--num-workers", "two"), "Invalid value for '--num-workers'"),
    "no steps": (("--num-steps", "0"), "schedule.num_steps"),
    "no blocks": (("--blocks", "0"), "blocks"),
    "negative blocks": (("--blocks", "-1"), "blocks"),
    "unknown preset": (("--preset", "tny"), "unknown preset 'tny'; did you mean tiny?"),
    "setting without value": (("--set", "model.depth"), "--set 'model.depth' is not of the form field=value"),
    "setting of nothing": (("--set", "=3"), "--set"),
    "unknown field": (("--set", "model.dept=3"), "did you mean model.depth?"),
    "ill-typed setting": (("--set", "model.depth=deep"), "model.depth"),
    "infinite setting": (("--set", "optim.weight_decay=1e999"), "optim.weight_decay must be a finite float, got inf"),
    "setting that is a set of lists": (("--set", "model.depth={[1]}"), "model.depth must be int"),
    "impossible setting": (("--set", "model.depth=0"), "model.depth"),
    "setting of an axis": (("--set", "moe.capacity_factor=1.0"), "moe.capacity_factor is an axis of this sweep"),
    "the same setting twice": (("--set", "model.depth=3", "--set", "model.depth=4"), "twice"),
    "preset twice": (("--preset", "tiny", "--preset", "tiny"), "--preset is given 2 times"),
    "leg twice": (("--legs", "exact,exact"), "--legs names exact twice"),
    "unknown leg": (("--legs", "exat"), "there is no leg 'exat'; did you mean exact?"),
    "no leg": (("--legs", ""), "--legs '' holds an empty name"),
    "more workers than a number holds": (
        ("--num-workers", str(10**20)),
        "num_workers must be a whole number from 1 on",
    ),
    "more steps than a number holds": (
        ("--num-steps", str(10**20)),
        "schedule.num_steps must be an int of at most 64 bits",
    ),
    "more blocks than a number holds": (("--blocks", str(10**20)), "trials"),
    "batch that does not divide": (("--set", "data.total_batch_tokens=1000"), "1,000 is no multiple"),
}


@pytest.mark.parametrize("verb", ["plan", "launch"])
@pytest.mark.parametrize("case", FLAGS)
def test_a_setting_that_cannot_be(case: str, verb: str, program: Callable, tmp_path: Path) -> None:
    words, sentence = FLAGS[case]
    check_refused(program, [verb, "smoke", *words], 2, sentence, tmp_path)


LAUNCHES = {
    "name with a space": (("--name", "my run"), "experiment 'my run' cannot name a folder"),
    "name with a slash": (("--name", "a/b"), "experiment 'a/b' cannot name a folder"),
    "name that climbs": (("--name", ".."), "experiment '..' cannot name a folder"),
    "hidden name": (("--name", ".run"), "experiment '.run' cannot name a folder"),
    "name in unicode": (("--name", "größe"), "experiment 'größe' cannot name a folder"),
    "empty name": (("--name", ""), "experiment '' cannot name a folder"),
    "long name": (("--name", "x" * 101), "cannot name a folder"),
    "negative grace": (("--grace-s", "-1"), "--grace-s"),
    "endless grace": (("--grace-s", "1e400"), "--grace-s must be from 0 s to a year (8760h), got inf"),
    "longer than a year": (("--stop-after", "99999999h"), "--stop-after must be from 0 s to a year (8760h)"),
    "more hours than a number holds": (("--stop-after", "9" * 5000 + "h"), "--stop-after must be a time like 30s, 50m"),
    "two places": (("--storage", "a", "--storage", "b"), "--storage is given 2 times; give it once"),
    "both ways": (("--preflight", "--no-preflight"), "--preflight/--no-preflight is given 2 times; give it once"),
    "a time that is none": (("--stop-after", "50"), "--stop-after must be a time like 30s, 50m"),
    "grace that is no number": (("--grace-s", "nan"), "--grace-s"),
    "a Ray client's address": (("--address", "ray://host:10001"), "is a Ray client's"),
    "empty storage": (("--storage", ""), "--storage is empty"),
    "storage that is a file": (("--storage", "{}/file"), "storage {}/file cannot be written"),
    "storage below a file": (("--storage", "{}/file/below"), "storage {}/file/below cannot be written"),
    "storage that cannot be written": (("--storage", "/proc/nothing"), "storage /proc/nothing cannot be written"),
    "storage of an unknown kind": (("--storage", "ftp://host/x"), "storage ftp://host/x cannot be opened"),
}


@pytest.mark.parametrize("case", LAUNCHES)
def test_a_launch_that_cannot_be(case: str, program: Callable, tmp_path: Path) -> None:
    words, sentence = LAUNCHES[case]
    (tmp_path / "file").write_text("")
    here = [word.replace("{}", str(tmp_path)) for word in words]
    check_refused(program, ["launch", "smoke", *here], 2, sentence.replace("{}", str(tmp_path)), tmp_path)


VERBS = ("status", "restore", "retry", "stop", "rm", "logs", "report", "export")
EXPERIMENTS = {
    "unknown": ("nothing", 2, "no experiment 'nothing'"),
    "empty": ("", 2, "no experiment ''"),
    "no experiment": ("{}/folder", 2, "{}/folder is no experiment: it holds no manifest.json"),
    "no folder": ("{}/none", 2, "there is no folder {}/none"),
    "a file": ("{}/file", 2, "there is no folder {}/file"),
    "ambiguous": ("2026", 2, "'2026' fits 2 experiments"),
    "damaged": ("damaged", 7, "manifest.json is damaged"),
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("case", EXPERIMENTS)
def test_an_experiment_that_is_none(
    case: str, verb: str, program: Callable, make_experiment: Make, tmp_path: Path
) -> None:
    place, code, sentence = EXPERIMENTS[case]
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for id in ("20260101_120000_toy", "20260102_120000_toy", "damaged"):
        make_experiment(id=id)
    (tmp_path / "storage" / "damaged" / "manifest.json").write_text("{")
    here = place.replace("{}", str(tmp_path))
    check_refused(program, [verb, here], code, sentence.replace("{}", str(tmp_path)), tmp_path)


MANIFESTS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda _: b"", "it is no JSON"),
    "cut": (lambda data: data[:100], "it is no JSON"),
    "binary": (lambda _: bytes(range(256)), "it is no JSON"),
    "another type": (lambda _: b"[]", "must hold a JSON object, not list"),
    "another schema": (
        lambda data: data.replace(b"manifest/1", b"manifest/9"),
        "its schema is 'nanochat-sweep/manifest/9'",
    ),
    "a key missing": (lambda data: data.replace(b'"sweep"', b'"swept"', 1), "it lacks"),
    "another plan": (lambda data: data.replace(b'"static"', b'"stotic"', 1), "its plan does not have the digest"),
    "huge numbers": (lambda data: b'{"schema": 1e999999}', "schema"),
    "deep": (lambda _: b"[" * 100_000, "it is no JSON"),
}


@pytest.mark.parametrize("case", MANIFESTS)
def test_a_manifest_that_cannot_be_trusted(case: str, program: Callable, make_experiment: Make, tmp_path: Path) -> None:
    experiment = make_experiment(id="mine")
    change, sentence = MANIFESTS[case]
    file = Path(experiment.uri) / "manifest.json"
    file.write_bytes(change(file.read_bytes()))
    err = check_refused(program, ["status", "mine"], 7, sentence, tmp_path)
    assert str(file) in err


DAMAGED = {
    "an attempt": "trials/static-b1/attempts/000.json",
    "a result": "trials/static-b1/result.json",
    "the lock": "lock/owner-000001.json",
}


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"null", b'{"schema": "x"}'])
@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_file_is_named(
    case: str, content: bytes, program: Callable, make_experiment: Make, complete: Callable[..., None], tmp_path: Path
) -> None:
    experiment = make_experiment(id="mine")
    complete(experiment, "static-b1")
    experiment.lock()
    experiment.unlock()
    (Path(experiment.uri) / DAMAGED[case]).write_bytes(content)
    file = str(Path(experiment.uri) / DAMAGED[case])
    if case in ("an attempt", "a result"):  # of one trial: the others are shown (decision 0055)
        done = program("status", "mine")
        assert done.code == 0
        assert file in done.err
        assert "damaged" in done.out
        return
    for verb in ("status", "restore") if case == "the lock" else ("status",):
        check_refused(program, [verb, "mine"], 7, file, tmp_path)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"null", b"[", b"\0" * 900])
def test_a_restore_names_a_document_that_is_no_json_and_sets_it_aside(
    content: bytes, program: Callable, make_experiment: Make, complete: Callable[..., None]
) -> None:
    experiment = make_experiment(id="mine")
    for trial in experiment.plan.trials:
        complete(experiment, trial.name)
    file = Path(experiment.uri) / DAMAGED["an attempt"]
    file.write_bytes(content)
    done = program("restore", "mine")
    assert done.code == 0
    assert f"{file} is damaged ({len(content)} bytes, no JSON); set aside" in done.err
    assert file.with_name("000.json.damaged").read_bytes() == content
    assert program("status", "mine").code == 0
    assert "set aside" not in program("restore", "mine").err


def test_a_stale_lock_is_nobodys(program: Callable, make_experiment: Make) -> None:
    """Its process is gone, or another one has its pid since."""
    experiment = make_experiment(id="mine")
    here = Owner.this_process()
    lock = Path(experiment.uri) / "lock" / "owner-000001.json"
    lock.parent.mkdir()
    for changes in ({"pid": 2**22 + 1}, {"pid_started": 1}):
        lease = {"owner": {**vars(here), **changes}, "heartbeat_utc": here.started_utc, "held": True, "released": False}
        lock.write_text(json.dumps({"schema": "nanochat-sweep/lease/1", **lease}))
        assert "mine is not running" in program("stop", "mine").err
        assert "mine: interrupted" in program("status", "mine").out


def test_two_launches_into_one_experiment(program: Callable, make_experiment: Make, tmp_path: Path) -> None:
    experiment = make_experiment(id="mine")
    check_refused(program, ["launch", "smoke", "--name", "mine"], 2, "restore mine", tmp_path)
    experiment.lock()
    check_refused(program, ["launch", "smoke", "--name", "mine"], 75, "is being run by process", tmp_path)
    check_refused(program, ["restore", "mine"], 75, "is in use by process", tmp_path)
    experiment.unlock()


def test_a_storage_with_spaces_and_unicode_is_fine(program: Callable, make_experiment: Make, tmp_path: Path) -> None:
    make_experiment(id="mine")
    place = tmp_path / "meine Läufe"
    (tmp_path / "storage").rename(place)
    assert json.loads(program("ls", "--json", "--storage", place).out)["experiments"][0]["path"] == f"{place}/mine"
    assert program("status", "mine", "--storage", place).code == 0
    assert program("status", place / "mine").code == 0


@pytest.mark.parametrize("words", [("status",), ("logs", "x"), ("report", "x"), ("restore", "x"), ("ls",)])
def test_a_storage_that_is_a_file(words: tuple[str, ...], program: Callable, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    words = ("status", "x") if words == ("status",) else words
    check_refused(program, [*words, "--storage", tmp_path / "file"], 2, f"{tmp_path}/file", tmp_path)
