"""The CORE metric's questions: a folder in the public bundle's format, read and turned into texts.

    core.yaml             icl_tasks: a list of label, dataset_uri, num_fewshot: [n], icl_task_type and, optionally,
                          continuation_delimiter (a space where it is missing)
    eval_data/<uri>       one JSON object a line
    eval_meta_data.csv    columns `Eval Task` and `Random baseline` (in percent)

Of each task a fixed random choice is asked, and each question has its own fixed examples before it, so that two runs
answer the same questions. Numbers are only comparable between runs that ask equally many.
"""

import csv
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import yaml

from nanochat.config import ConfigError

TaskKind = Literal["multiple_choice", "schema", "language_modeling"]
Question = dict[str, Any]

_FIELDS: dict[str, tuple[str, ...]] = {
    "multiple_choice": ("query", "choices", "gold"),
    "schema": ("context_options", "continuation", "gold"),
    "language_modeling": ("context", "continuation"),
}
_MOST_EXAMPLES = 1000
_SHUFFLE_SEED = 1337
_EXAMPLES_SEED = 1234  # plus the question's number
_FORMAT = "a bundle holds core.yaml, eval_meta_data.csv and the folder eval_data with the files that core.yaml names"


@dataclass(frozen=True)
class Task:
    """One task of a bundle; its questions stay in their file until they are asked."""

    label: str
    kind: TaskKind
    num_examples: int  # answered questions in front of each question
    delimiter: str  # between a context and what continues it
    baseline: float  # accuracy of guessing, 0 to 1
    path: Path

    def questions(self, max_questions: int) -> list[Question]:
        """The questions that are asked, in a fixed random order; a negative bound means all of them."""
        lines = self.path.read_text(encoding="utf-8").split("\n")
        questions = [self._parse(line, i + 1) for i, line in enumerate(lines) if line.strip()]
        random.Random(_SHUFFLE_SEED).shuffle(questions)
        if not questions:
            raise ConfigError(f"{self.path}, which task {self.label} reads, holds no question")
        return questions[:max_questions] if max_questions > 0 else questions

    def _parse(self, line: str, number: int) -> Question:
        try:
            question: Any = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"line {number} of {self.path} is no JSON object ({error}); {_FORMAT}") from None
        if not isinstance(question, dict):
            raise ConfigError(f"line {number} of {self.path} is no JSON object; {_FORMAT}")
        missing = [name for name in _FIELDS[self.kind] if name not in question]
        if missing:
            raise ConfigError(f"line {number} of {self.path} lacks {', '.join(missing)}, which {self.kind} needs")
        wrong = _wrong_field(self.kind, cast(Question, question))
        if wrong:
            raise ConfigError(f"line {number} of {self.path} cannot be asked: {wrong}")
        return cast(Question, question)


def _wrong_field(kind: TaskKind, question: Question) -> str | None:
    """Why a question of this kind cannot be asked."""
    texts = [name for name in _FIELDS[kind] if name not in ("choices", "context_options", "gold")]
    for name in texts:
        if not isinstance(question[name], str):
            return f"{name} is {str(question[name])[:40]!r}, not a text"
    for name in set(_FIELDS[kind]) - {*texts, "gold"}:
        options = question[name]
        if not isinstance(options, list) or not options or not all(isinstance(option, str) for option in options):
            return f"{name} is {str(options)[:40]!r}, not a list of texts"
        if type(question["gold"]) is not int or not 0 <= question["gold"] < len(options):
            return f"gold is {str(question['gold'])[:40]!r}, and there are {len(options)} {name}"
    return None


def open_bundle(folder: Path) -> tuple[Task, ...]:
    """The tasks of a bundle. Raises ConfigError, naming the path, if a file is missing or cannot be understood."""
    if not folder.is_dir():
        raise ConfigError(
            f"there is no CORE bundle at {folder}: {_FORMAT}; name another folder by eval.core_bundle, "
            "or switch the metric off (eval.core_every: None in a config, -1 as a flag)"
        )
    baselines = _baselines(folder / "eval_meta_data.csv")
    path = folder / "core.yaml"
    try:
        entries: list[dict[str, Any]] = yaml.safe_load(_read(path))["icl_tasks"]
        tasks = tuple(_task(folder, entry, baselines) for entry in entries)
    except (yaml.YAMLError, KeyError, TypeError, IndexError, ValueError, AttributeError, RecursionError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path} cannot be understood ({error!r}); {_FORMAT}") from None
    if not tasks:
        raise ConfigError(f"{path} lists no tasks below icl_tasks")
    return tasks


def texts_of(task: Task, questions: Sequence[Question], index: int) -> list[str]:
    """What a question is asked with: one text per choice; for language_modeling the text without and with its end."""
    question = questions[index]
    examples = "".join(f"{_answered(task, questions[i])}\n\n" for i in _example_indices(task, len(questions), index))
    if task.kind == "multiple_choice":
        return [f"{examples}{question['query']}{task.delimiter}{choice}" for choice in question["choices"]]
    if task.kind == "schema":
        options = question["context_options"]
        return [f"{examples}{option}{task.delimiter}{question['continuation']}" for option in options]
    context = f"{examples}{question['context'].strip()}{task.delimiter}"
    # Without the blank at its end, which belongs to the first token of the continuation.
    return [context.strip(), context + question["continuation"]]


def _answered(task: Task, question: Question) -> str:
    if task.kind == "multiple_choice":
        return f"{question['query']}{task.delimiter}{question['choices'][question['gold']]}"
    if task.kind == "schema":
        return f"{question['context_options'][question['gold']]}{task.delimiter}{question['continuation']}"
    return f"{question['context'].strip()}{task.delimiter}{question['continuation']}"


def _example_indices(task: Task, num_questions: int, index: int) -> list[int]:
    others = [i for i in range(num_questions) if i != index]
    return random.Random(_EXAMPLES_SEED + index).sample(others, min(task.num_examples, len(others)))


def _task(folder: Path, entry: dict[str, Any], baselines: dict[str, float]) -> Task:
    label, kind, delimiter = entry["label"], entry["icl_task_type"], entry.get("continuation_delimiter", " ")
    if not isinstance(label, str) or not isinstance(delimiter, str):
        raise TypeError(f"label {str(label)[:40]!r} and continuation_delimiter {str(delimiter)[:40]!r} must be texts")
    num_examples = entry["num_fewshot"][0]
    if type(num_examples) is not int or not 0 <= num_examples <= _MOST_EXAMPLES:
        raise ValueError(f"num_fewshot of {label} is {str(num_examples)[:40]!r}, not 0 to {_MOST_EXAMPLES}")
    if kind not in _FIELDS:
        raise ConfigError(f"task {label} in {folder / 'core.yaml'} is of kind {kind!r}; known are {', '.join(_FIELDS)}")
    if label not in baselines:
        raise ConfigError(f"task {label} of core.yaml has no row in {folder / 'eval_meta_data.csv'}")
    path = _inside(folder / "eval_data", entry["dataset_uri"], label)
    baseline = baselines[label] / 100
    return Task(label=label, kind=kind, num_examples=num_examples, delimiter=delimiter, baseline=baseline, path=path)


def _inside(folder: Path, name: str, label: str) -> Path:
    """The file of a task. Raises ConfigError if it is not there, or if its name leads out of the bundle."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ConfigError(f"task {label} reads {str(name)[:200]!r}, which leads out of {folder}; put the file into it")
    if not path.is_file():
        raise ConfigError(f"{path}, which task {label} reads, does not exist; {_FORMAT}")
    return path


def _baselines(path: Path) -> dict[str, float]:
    rows = csv.DictReader(_read(path).splitlines())
    try:
        found = {row["Eval Task"]: float(row["Random baseline"]) for row in rows}
        if not all(-100 <= baseline <= 100 for baseline in found.values()):
            raise ValueError("it is not between -100 and 100")
        return found
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise ConfigError(f"{path} needs columns `Eval Task` and `Random baseline` (a number): {error!r}") from None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read ({error}); {_FORMAT}") from None
