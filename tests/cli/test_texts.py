"""What `plan` and `launch` say of the text, and that another text ends a command before anything is started."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cli import texts
from nanochat.config import TrainConfig, with_overrides
from nanochat.data import contents
from nanochat.data.corpus import open_corpus
from nanochat.data.shards import write_shard
from nanochat.data.tokenizer import Tokenizer
from sweeps.capacity import SWEEP as CAPACITY
from sweeps.engine.cluster.checks import LOCAL
from sweeps.records.experiment import Experiment
from sweeps.records.provenance import new_manifest
from sweeps.spec.find import load_sweep
from sweeps.spec.plan import make_plan
from sweeps.spec.preset import apply_settings


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of two shards of text with a tokenizer of bytes, and a cache that knows nothing yet."""
    monkeypatch.setenv("NANOCHAT_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "web"
    folder.mkdir()
    for number in range(2):
        texts = [f"{number} {i} It is a truth universally acknowledged. " * 40 for i in range(200)]
        write_shard(folder / f"shard_{number:05d}.parquet", [texts[:100], texts[100:]])
    Tokenizer({bytes([i]): i for i in range(256)}).write(folder / "tokenizer")
    return folder


def test_a_plan_says_how_many_tokens_and_passes_and_warns_of_many(program: Callable) -> None:
    done = program("plan", "capacity")
    assert done.code == 0
    assert (
        "each leg trains on 146.8 M tokens, about 174 passes over the text in the package (about 842,000 tokens)"
        in done.out
    )
    assert done.err.startswith("warning: about 174 passes over the text in the package: from the fifth pass on ")
    assert "--set data.source=FOLDER" in done.err


def test_few_passes_are_no_reason_to_warn(program: Callable) -> None:
    done = program("plan", "smoke")
    assert "about 0.0" in done.out
    assert done.err == ""


def test_the_estimate_of_a_plan_is_near_what_is_counted(web: Path) -> None:
    from nanochat.data.estimate import estimate_tokens
    from nanochat.data.size import measure_corpus
    from nanochat.data.tokenizer import load

    embedded = open_corpus(None)
    counted = measure_corpus(embedded, load(embedded))[0].num_tokens
    assert estimate_tokens(None) == pytest.approx(counted, rel=0.05)
    text_bytes = sum(len(text.encode()) for text in _documents(web / "shard_00000.parquet"))
    by_footer = estimate_tokens(str(web))
    assert by_footer == pytest.approx(text_bytes / 4.48, rel=0.2)
    open_corpus(str(web))
    assert estimate_tokens(str(web)) == by_footer  # from what is known, without opening a shard


def _documents(shard: Path) -> list[str]:
    import pyarrow.parquet as pq

    return pq.read_table(shard)["text"].to_pylist()


def test_a_plan_reads_no_text_and_makes_nothing(web: Path, monkeypatch: pytest.MonkeyPatch, program: Callable) -> None:
    monkeypatch.setattr(contents, "look_at_one", lambda path: pytest.fail(f"{path} is read"))
    done = program("plan", "smoke", "--set", f"data.source={web}")
    assert (done.code, done.err) == (0, "")
    assert f"over {web} (about" in done.out
    assert not (web.parent / "cache").exists()


def test_a_text_that_is_elsewhere_can_be_planned(program: Callable, tmp_path: Path) -> None:
    done = program("plan", "smoke", "--set", f"data.source={tmp_path}/nowhere")
    assert done.code == 0
    assert f"warning: passes over {tmp_path}/nowhere are not known: the data folder" in done.err


def test_legs_of_several_lengths_and_texts_have_a_line_for_each_text(web: Path) -> None:
    short, long = (with_overrides(CAPACITY.base, {"schedule.num_steps": steps}) for steps in (1, 5))
    elsewhere = with_overrides(short, {"data.source": str(web)})
    lines, warnings = texts.amount_lines([short, long, elsewhere])
    assert lines[0].startswith("each leg trains on 524,288 to 2.6 M tokens, about 0.62 to 3.1 passes over the text in")
    assert len(lines) == 2
    assert [str(web) in warning for warning in warnings] == [True]


def _launched(tmp_path: Path, source: str | Path) -> Experiment:
    sweep = apply_settings(load_sweep("smoke"), sets=[f"data.source={source}"])
    manifest = new_manifest(make_plan(sweep), id="old", argv=["test"], settings={})
    return Experiment.create(str(tmp_path / "storage"), "old", manifest)


def _tell(experiment: Experiment, source: Path) -> None:
    """The first leg has begun with the text that is there."""
    record = experiment.trials()[0]
    facts = vars(open_corpus(str(source)).facts())
    record.update_attempt(replace(record.start_attempt(num_workers=2), facts=facts, end="interrupted"))


def _add_a_shard(web: Path) -> None:
    write_shard(web / "shard_00002.parquet", [["a shard that arrived"]])


def _change_a_shard(web: Path) -> None:
    write_shard(web / "shard_00000.parquet", [["other text"]])


def _other_tokenizer(web: Path) -> None:
    header = web / "tokenizer" / "tokenizer.json"
    header.write_text(header.read_text() + "\n")


@pytest.mark.parametrize("verb", ["restore", "retry"])
@pytest.mark.parametrize("change", [_add_a_shard, _change_a_shard, _other_tokenizer])
def test_no_verb_continues_on_another_text(
    program: Callable, tmp_path: Path, web: Path, verb: str, change: Callable[[Path], None]
) -> None:
    experiment = _launched(tmp_path, web)
    _tell(experiment, web)
    if verb == "retry":
        record = experiment.trials()[0]
        record.update_attempt(replace(record.attempts()[-1], end="failed"))
    change(web)
    done = program(verb, "old", "--address", "local")
    assert done.code == 6, done.err
    error = done.err.splitlines()[-1]
    assert error.startswith("error: the t")
    assert f"in {web} changed since attempt 0 of exact-b1; put back what was there" in error
    assert len(experiment.trials()[0].attempts()) == 1
    assert experiment.owner() is None


def test_a_text_that_is_gone_leaves_the_experiment_as_it_is(program: Callable, tmp_path: Path, web: Path) -> None:
    experiment = _launched(tmp_path, web)
    _tell(experiment, web)
    web.rename(tmp_path / "moved away")
    done = program("restore", "old", "--address", "local")
    assert done.code == 2
    assert f"error: the data folder {web} does not exist" in done.err
    assert experiment.trials()[0].state() == "interrupted"
    assert texts.read_texts(experiment.plan.trials, "head:6379") == {}  # another machine can have it
    with pytest.raises(ValueError, match="does not exist"):
        texts.read_texts(experiment.plan.trials, LOCAL)


def test_a_launch_on_text_that_cannot_be_trained_on_leaves_nothing_behind(
    program: Callable, tmp_path: Path, web: Path
) -> None:
    (web / "shard_00001.parquet").write_bytes(b"half a download")
    done = program("launch", "smoke", "--address", "local", "--set", f"data.source={web}")
    assert done.code == 2
    assert f"error: {web}/shard_00001.parquet cannot be read as Parquet" in done.err
    assert not list((tmp_path / "storage").glob("*"))


def test_legs_that_read_another_text_are_not_taken_over(
    program: Callable, tmp_path: Path, web: Path, complete: Callable[..., None]
) -> None:
    old = _launched(tmp_path, web)
    facts = vars(open_corpus(str(web)).facts())
    for trial in old.plan.trials:
        complete(old, trial.name, **facts)
    words = ("launch", "smoke", "--address", "local", "--continue-from", "old", "--set", f"data.source={web}")
    taken = program(*words, "--name", "new")
    assert taken.code == 0, taken.err
    assert "taken over from old: exact-b1, capped-b1" in taken.err
    _add_a_shard(web)
    refused = program(*words, "--name", "newer")
    assert refused.code == 2
    assert "has no leg to take over (exact-b1: the text (2 shards then, 3 now; digest" in refused.err
    assert not (tmp_path / "storage" / "newer").exists()


def test_a_relative_source_is_stored_as_an_absolute_one(
    program: Callable, tmp_path: Path, web: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(web.parent)
    done = program("plan", "smoke", "--set", "data.source=./web", "--commands")
    assert done.out.count(f"--data {web} ") + done.out.count(f"--data {web}\n") == 2
    monkeypatch.setenv("HOME", str(tmp_path))
    assert f"--data {web}" in program("plan", "smoke", "--set", "data.source=~/web", "--commands").out


def test_a_default_config_names_no_folder_and_gets_none() -> None:
    from sweeps.spec.plan import with_absolute_paths

    plan = make_plan(load_sweep("smoke"))
    assert with_absolute_paths(plan) == plan
    assert TrainConfig().data.source is None
