"""The CORE metric: which tokens are judged, who wins, and one number for a whole bundle, on any number of ranks."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from nanochat.config import ConfigError, with_overrides
from nanochat.data.tokenizer import Tokenizer
from nanochat.evaluation import core as core_eval
from nanochat.evaluation.core import Judged, Text, centred, is_correct, judge_tokens, judge_with, num_correct, spans
from nanochat.evaluation.core_tasks import Task, open_bundle
from nanochat.machine.ranks import Ranks
from nanochat.model.gpt import GPT
from nanochat.stats import StepStats
from tests.helpers.configs import tiny_config
from tests.helpers.runs import trained

ALONE = Ranks(0, 1, torch.device("cpu"))
LETTERS = Tokenizer({bytes([i]): i for i in range(256)}, vocab_size=300)


def test_choices_are_judged_after_their_common_beginning() -> None:
    assert spans("multiple_choice", [[9, 1, 2, 3], [9, 1, 4], [9, 1, 2, 5, 6]], 100) == [
        Text([9, 1, 2, 3], 2, 4),
        Text([9, 1, 4], 2, 3),
        Text([9, 1, 2, 5, 6], 2, 5),
    ]


def test_a_choice_that_begins_another_one_is_judged_by_its_last_token() -> None:
    assert spans("multiple_choice", [[9, 1], [9, 1, 2]], 100) == [Text([9, 1], 1, 2), Text([9, 1, 2], 2, 3)]


def test_contexts_are_judged_by_their_common_end() -> None:
    assert spans("schema", [[9, 1, 5, 6], [9, 2, 2, 5, 6]], 100) == [
        Text([9, 1, 5, 6], 2, 4),
        Text([9, 2, 2, 5, 6], 3, 5),
    ]
    assert spans("schema", [[9, 5, 6], [9, 5, 6]], 100) == [Text([9, 5, 6], 1, 3)] * 2


def test_a_continuation_is_judged_from_where_it_differs_from_the_text_without_it() -> None:
    assert spans("language_modeling", [[9, 1, 2], [9, 1, 2, 3, 4]], 100) == [Text([9, 1, 2, 3, 4], 3, 5)]
    assert spans("language_modeling", [[9, 1, 2], [9, 1, 7, 4]], 100) == [Text([9, 1, 7, 4], 2, 4)]


def test_texts_longer_than_the_context_lose_their_beginning() -> None:
    assert spans("language_modeling", [[9, 1, 2, 3], [9, 1, 2, 3, 4, 5]], 4) == [Text([2, 3, 4, 5], 2, 4)]
    assert spans("language_modeling", [[9], [9, 1, 2, 3, 4, 5]], 4) == [Text([2, 3, 4, 5], 1, 4)]


def test_the_lowest_mean_loss_wins_and_of_equal_ones_the_first() -> None:
    losses = [Judged(2.0, False), Judged(1.0, False), Judged(1.0, True)]
    assert is_correct("multiple_choice", losses, 1)
    assert not is_correct("schema", losses, 2)
    assert is_correct("language_modeling", [Judged(5.0, True)], None)
    assert not is_correct("language_modeling", [Judged(0.1, False)], None)


def test_tokens_are_judged_by_their_mean_loss_and_by_the_best_guess() -> None:
    logits = torch.tensor([[0.0, math.log(3)], [math.log(3), 0.0]])
    assert judge_tokens(logits, torch.tensor([1, 0])) == (pytest.approx(-math.log(0.75)), True)
    assert judge_tokens(logits, torch.tensor([1, 1])) == (pytest.approx(-math.log(0.75 * 0.25) / 2), False)


def test_accuracy_is_centred_on_guessing() -> None:
    assert [centred(a, 0.25) for a in (0.25, 1.0, 0.0)] == pytest.approx([0, 1, -1 / 3])


def favours_a(texts: Sequence[Text]) -> list[Judged]:
    """A model that finds likely, and guesses, the letter a and the blank alone."""
    shares = [sum(i not in b"a " for i in t.ids[t.start : t.end]) / (t.end - t.start) for t in texts]
    return [Judged(share, share == 0) for share in shares]


def _bundle(folder: Path) -> Path:
    """Of a judge that favours a: multiple choice 3 of 4, schema 1 of 2, language modeling 1 of 5 correct."""
    (folder / "eval_data").mkdir(parents=True)
    kinds = {"mc": "multiple_choice", "sc": "schema", "lm": "language_modeling"}
    entries = [
        {"label": k, "dataset_uri": f"{k}.jsonl", "num_fewshot": [1], "icl_task_type": kind}
        for k, kind in kinds.items()
    ]
    (folder / "core.yaml").write_text(json.dumps({"icl_tasks": entries}))  # JSON is YAML too
    (folder / "eval_meta_data.csv").write_text("Eval Task,Random baseline\nmc,50\nsc,50\nlm,0\n")
    questions = {
        "mc": [{"query": f"{n}?", "choices": ["aa", "bb"], "gold": int(n == 3)} for n in range(4)],
        "sc": [{"context_options": [f"{n}", f"{n + 1}"], "continuation": "a", "gold": n} for n in range(2)],
        "lm": [{"context": f"{n}", "continuation": "a" if n == 0 else "z"} for n in range(5)],
    }
    for name, items in questions.items():
        (folder / "eval_data" / f"{name}.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _bundle(tmp_path_factory.mktemp("core") / "bundle")


def test_correct_answers_are_counted_and_ranks_share_the_questions(bundle: Path) -> None:
    def counts(task: Task, rank: int, world_size: int) -> list[float]:
        return num_correct(task, favours_a, LETTERS, 100, -1, Ranks(rank, world_size, ALONE.device)).tolist()

    tasks = open_bundle(bundle)
    assert [counts(task, 0, 1) for task in tasks] == [[3, 4], [1, 2], [1, 5]]
    for task in tasks:
        parts = [counts(task, rank, 2) for rank in range(2)]
        assert [sum(part) for part in zip(*parts, strict=True)] == counts(task, 0, 1)


def test_core_is_the_mean_of_the_centred_accuracies(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_eval, "judge_with", lambda model: favours_a)
    model = GPT(tiny_config(), "sdpa")
    assert core_eval.core_metric(model, LETTERS, open_bundle(bundle), -1, ALONE) == pytest.approx((0.5 + 0.0 + 0.2) / 3)
    assert model.training


@torch.no_grad()
def test_a_model_judges_a_span_by_the_losses_it_would_train_on_whatever_stands_beside_it() -> None:
    torch.manual_seed(0)
    model = GPT(tiny_config(), "sdpa")
    model.initialize(torch.device("cpu"), torch.float32)
    for parameter in model.parameters():
        parameter += 0.1 * torch.randn_like(parameter)
    model.eval()
    ids = torch.randint(300, (1, 33))
    losses, _, _ = model(ids[:, :-1], ids[:, 1:].contiguous())
    whole = Text(ids[0, :32].tolist(), 20, 32)
    short = Text(ids[0, :9].tolist(), 3, 6)
    judged = judge_with(model)([short, whole])
    assert [j.mean_loss for j in judged] == pytest.approx(
        [losses[0, 2:5].mean().item(), losses[0, 19:31].mean().item()], abs=1e-4
    )


# In a run


def asked_in_training(ranks: Ranks, folder: str, bundle: str, max_per_task: int) -> list[StepStats]:
    core: dict[str, Any] = {"eval.core_every": 3, "eval.core_bundle": bundle, "eval.core_max_per_task": max_per_task}
    return trained(tiny_config(folder, **core))[0]


def test_a_run_asks_when_due_and_at_the_end_and_two_ranks_come_to_the_same_number(
    small_text: Path,
    bundle: Path,
    run_world: Any,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bounds: list[int] = []
    read = Task.questions
    monkeypatch.setattr(Task, "questions", lambda task, bound: bounds.append(bound) or read(task, bound))
    alone = asked_in_training(ALONE, str(small_text), str(bundle), 4)
    assert bounds == [4] * 3 * 2
    printed = capsys.readouterr().out
    asked = [(row.step, row.core_metric) for row in alone if row.core_metric is not None]
    assert [step for step, _ in asked] == [2, 3]
    assert all(-1 <= value <= 1 for _, value in asked)
    assert f"Step 00003 | CORE metric: {asked[0][1]:.4f}\n" in printed
    assert [row.step for row in alone if "eval" in row.flags] == [3]
    first, second = run_world(asked_in_training, 2, str(small_text), str(bundle), 4)
    assert [row.core_metric for row in first] == pytest.approx([row.core_metric for row in alone])
    assert second == []


def test_the_bound_on_questions_is_a_tasks_own(bundle: Path) -> None:
    asked = [num_correct(task, favours_a, LETTERS, 100, 3, ALONE)[1] for task in open_bundle(bundle)]
    assert asked == [3, 2, 3]


def test_without_a_bundle_only_the_default_goes_without(
    small_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NANOCHAT_CACHE", str(tmp_path))
    config = tiny_config(small_text, **{"schedule.num_steps": 1, "eval.core_every": 2000})
    assert [row.core_metric for row in trained(config)[0]] == [None]
    assert f"CORE metric: not measured, there is no bundle at {tmp_path}/eval_bundle" in capsys.readouterr().out
    for change in ({"eval.core_every": 500}, {"eval.core_bundle": str(tmp_path / "other")}):
        with pytest.raises(ConfigError, match="there is no CORE bundle at"):
            trained(with_overrides(config, change))
    _bundle(tmp_path / "eval_bundle")
    assert trained(config)[0][0].core_metric is not None
