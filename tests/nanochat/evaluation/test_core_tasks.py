"""A bundle of questions: what is asked, in which words, and how a damaged one is rejected."""

import json
from pathlib import Path
from typing import Any

import pytest

from nanochat.config import ConfigError
from nanochat.evaluation.core_tasks import Task, open_bundle, texts_of

ENTRIES = """
icl_tasks:
- {label: animals, dataset_uri: a/animals.jsonl, num_fewshot: [1], icl_task_type: multiple_choice,
   continuation_delimiter: "\\nAnswer: "}
- {label: pronouns, dataset_uri: pronouns.jsonl, num_fewshot: [0], icl_task_type: schema}
- {label: verses, dataset_uri: verses.jsonl, num_fewshot: [1], icl_task_type: language_modeling}
"""
BASELINES = "Eval Task,Task Category,Random baseline\nanimals,world,25\npronouns,language,50.0\nverses,language,0\n"
ANIMALS = [
    {"query": f"Who says {sound}?", "choices": ["Cat", "Cow"], "gold": gold} for sound, gold in (("mew", 0), ("moo", 1))
]
PRONOUNS = [{"context_options": ["Ann said", "Bob said"], "continuation": "she was late", "gold": 0}]
VERSES = [{"context": " Roses are ", "continuation": "red"}, {"context": "Violets are", "continuation": "blue"}]


def write_bundle(folder: Path) -> Path:
    """Three tasks, one of each kind."""
    (folder / "eval_data" / "a").mkdir(parents=True)
    (folder / "core.yaml").write_text(ENTRIES)
    (folder / "eval_meta_data.csv").write_text(BASELINES)
    for name, questions in (("a/animals", ANIMALS), ("pronouns", PRONOUNS), ("verses", VERSES)):
        lines = [json.dumps(question) + "\n" for question in questions]
        (folder / "eval_data" / f"{name}.jsonl").write_text("".join(lines))
    return folder


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle")


def test_a_bundle_names_its_tasks_and_what_guessing_gives(bundle: Path) -> None:
    animals, pronouns, verses = open_bundle(bundle)
    assert (animals.label, animals.kind, animals.num_examples, animals.baseline) == (
        "animals",
        "multiple_choice",
        1,
        0.25,
    )
    assert (animals.delimiter, pronouns.delimiter) == ("\nAnswer: ", " ")
    assert (pronouns.num_examples, pronouns.baseline, verses.kind) == (0, 0.5, "language_modeling")


def test_choices_follow_an_answered_example_and_the_question(bundle: Path) -> None:
    animals, _, _ = open_bundle(bundle)
    assert texts_of(animals, ANIMALS, 0) == [
        "Who says moo?\nAnswer: Cow\n\nWho says mew?\nAnswer: Cat",
        "Who says moo?\nAnswer: Cow\n\nWho says mew?\nAnswer: Cow",
    ]


def test_a_schema_has_one_end_for_several_contexts(bundle: Path) -> None:
    _, pronouns, _ = open_bundle(bundle)
    assert texts_of(pronouns, PRONOUNS, 0) == ["Ann said she was late", "Bob said she was late"]


def test_a_text_to_continue_comes_without_and_with_its_end(bundle: Path) -> None:
    _, _, verses = open_bundle(bundle)
    assert texts_of(verses, VERSES, 1) == [
        "Roses are red\n\nViolets are",
        "Roses are red\n\nViolets are blue",
    ]


def test_questions_and_their_examples_are_a_fixed_random_choice(tmp_path: Path) -> None:
    path = tmp_path / "numbers.jsonl"
    path.write_text("".join(json.dumps({"context": f"{n} and", "continuation": f"{n}"}) + "\n" for n in range(20)))
    task = Task("numbers", "language_modeling", 3, " ", 0.0, path)
    everything, some = task.questions(-1), task.questions(5)
    assert sorted(int(q["continuation"]) for q in everything) == list(range(20))
    assert everything != sorted(everything, key=lambda q: int(q["continuation"]))
    assert some == everything[:5]
    assert task.questions(5) == some
    *examples, asked = texts_of(task, some, 2)[1].split("\n\n")
    assert asked == f"{some[2]['continuation']} and {some[2]['continuation']}"
    assert len(set(examples)) == 3
    assert asked not in examples
    assert len(texts_of(task, some[:2], 0)[1].split("\n\n")) == 2, "as many examples as there are"


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("core.yaml", None, r"core\.yaml cannot be read .* a bundle holds core\.yaml"),
        ("core.yaml", "icl_tasks: [{label: x}]", r"core\.yaml cannot be understood"),
        ("core.yaml", "icl_tasks: []", "lists no tasks"),
        ("core.yaml", ENTRIES.replace("schema", "riddle"), "kind 'riddle'; known are multiple_choice, schema"),
        ("core.yaml", ENTRIES.replace("pronouns.jsonl", "other.jsonl"), r"other\.jsonl, which task pronouns reads"),
        ("core.yaml", "icl_tasks: [7]", r"core\.yaml cannot be understood"),
        ("core.yaml", "a: " + "[" * 5000, r"core\.yaml cannot be understood"),
        ("core.yaml", ENTRIES.replace("[1]", "[1.5]"), "num_fewshot of animals is '1.5'"),
        ("core.yaml", ENTRIES.replace("[1]", "[99999999999]"), "num_fewshot of animals is '99999999999'"),
        ("core.yaml", ENTRIES.replace("label: animals", "label: [animals]"), "must be texts"),
        ("eval_meta_data.csv", BASELINES.replace("50.0", "nan"), "between -100 and 100"),
        ("eval_meta_data.csv", BASELINES.replace("50.0", "1e400"), "between -100 and 100"),
        ("eval_meta_data.csv", None, r"eval_meta_data\.csv cannot be read"),
        ("eval_meta_data.csv", BASELINES.replace("pronouns", "x"), "task pronouns of core.yaml has no row"),
        ("eval_meta_data.csv", BASELINES.replace("50.0", "half"), "columns `Eval Task` and `Random baseline`"),
    ],
)
def test_a_damaged_bundle_is_refused_by_name(bundle: Path, file: str, content: str | None, words: str) -> None:
    if content is None:
        (bundle / file).unlink()
    else:
        (bundle / file).write_text(content)
    with pytest.raises(ConfigError, match=words):
        open_bundle(bundle)


@pytest.mark.parametrize("uri", ["../../secret", "a/../../../secret", "ABSOLUTE", "link/secret", "link_to_file"])
def test_a_task_reads_no_file_outside_its_bundle(bundle: Path, uri: str) -> None:
    outside = bundle.parent / "outside"
    outside.mkdir()
    for secret in (outside / "secret", bundle.parent / "secret"):
        secret.write_text(json.dumps(VERSES[0]) + "\n")
    (bundle / "eval_data" / "link").symlink_to(outside)
    (bundle / "eval_data" / "link_to_file").symlink_to(outside / "secret")
    uri = uri.replace("ABSOLUTE", str(outside / "secret"))
    (bundle / "core.yaml").write_text(ENTRIES.replace("verses.jsonl", uri))
    with pytest.raises(ConfigError, match=r"task verses reads .*, which leads out of .*eval_data"):
        open_bundle(bundle)


def test_a_bundle_may_itself_be_behind_a_link(bundle: Path) -> None:
    link = bundle.with_name("link")
    link.symlink_to(bundle)
    assert len(open_bundle(link)) == 3


def test_no_bundle_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no CORE bundle at .*/none: a bundle holds .*eval\.core_bundle"):
        open_bundle(tmp_path / "none")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", r"line 1 of .*verses\.jsonl is no JSON"),
        ("7", r"line 1 of .*verses\.jsonl is no JSON object"),
        ("[" * 100_000, r"line 1 of .*verses\.jsonl is no JSON"),
        ('{"context": "a"}', "lacks continuation"),
        ('{"context": 7, "continuation": "a"}', "context is '7', not a text"),
        ("", "no question"),
    ],
)
def test_damaged_questions_are_refused_by_line(bundle: Path, line: str, words: Any) -> None:
    (bundle / "eval_data" / "verses.jsonl").write_text(line)
    _, _, verses = open_bundle(bundle)
    with pytest.raises(ConfigError, match=words):
        verses.questions(-1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gold": 2}, "gold is '2', and there are 2 choices"),
        ({"gold": -1}, "gold is '-1'"),
        ({"gold": True}, "gold is 'True'"),
        ({"choices": []}, r"choices is '\[\]', not a list of texts"),
        ({"choices": "ab"}, "not a list of texts"),
        ({"choices": [1, 2]}, "not a list of texts"),
        ({"query": None}, "query is 'None', not a text"),
    ],
)
def test_a_question_without_an_answer_is_refused(bundle: Path, changes: dict[str, Any], words: str) -> None:
    (bundle / "eval_data" / "a" / "animals.jsonl").write_text(json.dumps(ANIMALS[0] | changes))
    with pytest.raises(ConfigError, match=words):
        open_bundle(bundle)[0].questions(-1)
