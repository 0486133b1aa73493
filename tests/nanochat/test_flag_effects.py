"""Every flag has its effect: what it is there for differs between a tiny run with it and the same run without it."""

import gc
import json
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from nanochat.config import ConfigError
from nanochat.flags import FLAGS, parse_flags
from nanochat.stats import Checkpoint, Hooks, StartFacts, StepStats
from nanochat.train import train
from scripts import base_train
from tests.helpers.flags import edited

TINY = shlex.split(
    "--use-moe --n-experts 4 --expert-topk 2 --moe-freq 1 --expert-hidden-mult 2 --depth 2 --aspect-ratio 16 "
    "--head-dim 16 --max-seq-len 32 --device-batch-size 2 --total-batch-size 128 --num-iterations 4 --vocab-size 300 "
    "--eval-every -1 --core-metric-every -1 --sample-every -1 --device-type cpu --compile-mode none --model-tag tiny "
    "--eval-tokens 256 --embedding-lr 3 --unembedding-lr 0.04 --matrix-lr 0.2 --scalar-lr 5"
)
FP8 = ["--fp8", "--fp8-include-moe-experts"]
CORE = ["--core-metric-every", "2", "--core-bundle", "BUNDLE"]

# flag -> what differs (an aspect of `_observe`), and what is added without the flag and with it
EFFECTS: dict[str, tuple[str, list[str], list[str]]] = {
    "--n-experts": ("parameters", [], ["--n-experts", "8"]),
    "--expert-topk": ("loss", [], ["--expert-topk", "1"]),
    "--moe-freq": ("parameters", [], ["--moe-freq", "2"]),
    "--expert-hidden-mult": ("parameters", [], ["--expert-hidden-mult", "4"]),
    "--balance-loss-coeff": ("loss", [], ["--balance-loss-coeff", "1"]),
    "--moe-capacity-factor": ("dropped", [], ["--moe-capacity-factor", "0.5"]),
    "--router-bias-rate": ("loss", [], ["--router-bias-rate", "0.5"]),
    "--router-z-loss-coeff": ("loss", [], ["--router-z-loss-coeff", "1"]),
    "--depth": ("parameters", [], ["--depth", "3"]),
    "--aspect-ratio": ("parameters", [], ["--aspect-ratio", "32"]),
    "--head-dim": ("loss", [], ["--head-dim", "32"]),
    "--max-seq-len": ("loss", [], ["--max-seq-len", "64"]),
    "--window-pattern": ("loss", [], ["--window-pattern", "L"]),
    "--vocab-size": ("error", [], ["--vocab-size", "512"]),
    "--device-batch-size": ("micro-steps", [], ["--device-batch-size", "1"]),
    "--total-batch-size": ("micro-steps", [], ["--total-batch-size", "256"]),
    "--num-iterations": ("steps", [], ["--num-iterations", "2"]),
    "--target-flops": ("steps", ["--num-iterations", "-1", "--target-flops", "1e8"], ["--target-flops", "2e8"]),
    "--target-param-data-ratio": (
        "steps",
        ["--num-iterations", "-1", "--target-param-data-ratio", "0.02"],
        ["--target-param-data-ratio", "0.03"],
    ),
    "--warmup-ratio": ("rate", [], ["--warmup-ratio", "0.5"]),
    "--warmdown-ratio": ("rate", [], ["--warmdown-ratio", "1"]),
    "--final-lr-frac": ("rate", [], ["--final-lr-frac", "1"]),
    "--embedding-lr": ("loss", [], ["--embedding-lr", "1"]),
    "--unembedding-lr": ("loss", [], ["--unembedding-lr", "0.01"]),
    "--matrix-lr": ("loss", [], ["--matrix-lr", "0.02"]),
    "--scalar-lr": ("loss", [], ["--scalar-lr", "500"]),
    "--weight-decay": ("loss", [], ["--weight-decay", "9"]),
    "--adam-beta1": ("loss", [], ["--adam-beta1", "0.2"]),
    "--adam-beta2": ("loss", [], ["--adam-beta2", "0.5"]),
    "--fp8": ("loss", [], ["--fp8"]),
    "--fp8-include-moe-experts": ("loss", ["--fp8"], ["--fp8-include-moe-experts"]),
    "--fp8-experts": ("loss", [], ["--fp8-experts"]),
    "--fp8-head": ("loss", [], ["--fp8-head"]),
    "--fp8-attention": ("loss", [], ["--fp8-attention"]),
    "--fp8-qkv": ("loss", [], ["--fp8-qkv"]),
    "--fp8-out": ("loss", [], ["--fp8-out"]),
    "--fp8-recipe": ("loss", FP8, ["--fp8-recipe", "rowwise"]),
    "--data": ("loss", [], ["--data", "OTHER"]),
    "--seed": ("loss", [], ["--seed", "7"]),
    "--eval-every": ("validations", [], ["--eval-every", "3"]),
    "--eval-tokens": ("validations", ["--eval-every", "2"], ["--eval-tokens", "64"]),
    "--core-metric-every": ("core", [], CORE),
    "--core-metric-max-per-task": ("core", CORE, ["--core-metric-max-per-task", "1"]),
    "--core-bundle": ("core", CORE, ["--core-bundle", "OTHER_BUNDLE"]),
    "--sample-every": ("samples", [], ["--sample-every", "3"]),
    "--save-every": ("saved", [], ["--save-every", "3"]),
    "--no-final-save": ("saved", [], ["--no-final-save"]),
    "--run": ("log", [], ["--run", "mine"]),
    "--log-every": ("log", [], ["--log-every", "3"]),
    "--inject-pct": ("injected", [], ["--inject-pct", "30"]),
    "--device-type": ("device", [], ["--device-type", "cuda"]),
    "--attention": ("attention", [], ["--attention", "flash"]),
    "--deterministic": ("deterministic", [], ["--deterministic"]),
    "--checkpoint-root": ("folder", [], ["--checkpoint-root", "/elsewhere"]),
    "--model-tag": ("folder", [], ["--model-tag", "other"]),
    "--resume": ("candidates", [], ["--resume", "latest"]),
    "--resume-from-step": ("candidates", [], ["--resume-from-step", "2"]),
}
ELSEWHERE = {
    "--use-moe": "test_a_model_without_experts_has_no_router_columns",
    "--compile-mode": "test_compiled_by_inductor_a_run_trains_like_an_uncompiled_one",
    "--kernels": "test_on_hopper_the_faster_kernels_serve_unless_torchs_are_asked_for",
    "--compile-fallback": "test_with_the_fallback_a_run_goes_on_exactly_as_if_uncompiled_and_marks_every_row",
}


@pytest.fixture(scope="module")
def places(small_text: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What stands for folders in the table."""
    other = tmp_path_factory.mktemp("other") / "text"
    shutil.copytree(small_text, other)
    (other / "shard_00000.parquet").rename(other / "shard_00002.parquet")  # now the one for validation
    bundles = tmp_path_factory.mktemp("bundles")
    places = {"OTHER": str(other)}
    for name, gold in (("BUNDLE", 0), ("OTHER_BUNDLE", 1)):
        folder = bundles / name
        (folder / "eval_data").mkdir(parents=True)
        task = {"label": "t", "dataset_uri": "t.jsonl", "num_fewshot": [0], "icl_task_type": "multiple_choice"}
        (folder / "core.yaml").write_text(json.dumps({"icl_tasks": [task]}))
        (folder / "eval_meta_data.csv").write_text("Eval Task,Random baseline\nt,50\n")
        questions = [{"query": "q", "choices": ["e", "Z"], "gold": gold if i else 1 - gold} for i in range(3)]
        (folder / "eval_data" / "t.jsonl").write_text("".join(json.dumps(q) + "\n" for q in questions))
        places[name] = str(folder)
    return places


@pytest.fixture(autouse=True)
def restored_switches() -> Iterator[None]:
    """And the trainer's collection of garbage, which walks through all of this process, has little to walk through."""
    gc.freeze()
    yield
    torch.use_deterministic_algorithms(False)
    gc.unfreeze()


@pytest.fixture(scope="module")
def seen_before() -> dict[tuple[str, ...], dict[str, Any]]:
    """What runs without the flag have shown; most flags share one."""
    return {}


def _observe(argv: list[str], root: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """A run's aspects by name. Where it is rejected, that is all there is to see."""
    config, options = parse_flags(argv)
    rows: list[StepStats] = []
    facts: list[StartFacts] = []
    saved: list[int] = []

    def save(state: Checkpoint) -> None:
        saved.append(state.step)

    for step in (2, 4):
        (root / f"step_{step:06d}").mkdir(exist_ok=True)
    seen: dict[str, Any] = {
        "folder": base_train.checkpoint_folder(config, options),
        "candidates": list(base_train.candidates(root, options)),
        "error": None,
    }
    hooks = Hooks(on_start=facts.append, on_step=rows.append, save=save)
    try:
        train(config, hooks)
    except (ConfigError, RuntimeError) as error:
        seen["error"] = str(error)
    log = capsys.readouterr().out.splitlines()
    return seen | {
        "log": [line.partition("|")[0] for line in log if line.startswith(("step", "run"))],
        "samples": [line for line in log if "| Sample" in line],
        "loss": [row.loss for row in rows],
        "rate": [row.lr_mult for row in rows],
        "steps": len(rows),
        "injected": [row.injected_ms is not None for row in rows],
        "dropped": [row.dropped_pct for row in rows],
        "validations": [row.val_bpb for row in rows],
        "core": [row.core_metric for row in rows],
        "parameters": facts[0].num_params if facts else None,
        "micro-steps": facts[0].grad_accum_steps if facts else None,
        "device": facts[0].device if facts else None,
        "attention": facts[0].backends["attention"] if facts else None,
        "saved": saved,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


@pytest.mark.parametrize("flag", EFFECTS)
def test_a_run_with_the_flag_differs_from_one_without_it(
    flag: str,
    places: dict[str, str],
    small_text: Path,
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
    seen_before: dict[tuple[str, ...], dict[str, Any]],
):
    aspect, without, added = EFFECTS[flag]
    root = tmp_path_factory.getbasetemp()
    base = [places.get(word, word) for word in edited(TINY, "--data", str(small_text), *without)]
    if tuple(base) not in seen_before:
        seen_before[tuple(base)] = _observe(base, root, capsys)
    changed = _observe(edited(base, *(places.get(word, word) for word in added)), root, capsys)
    assert changed[aspect] != seen_before[tuple(base)][aspect], f"{aspect} is the same with and without {flag}"


def test_no_flag_is_left_out():
    assert set(EFFECTS) | set(ELSEWHERE) == {flag.name for flag in FLAGS}


def test_what_is_tested_elsewhere_is_there():
    text = "".join(
        path.read_text() for path in Path(__file__).parent.rglob("test_*.py") if path.name != Path(__file__).name
    )
    assert [name for name in ELSEWHERE.values() if name not in text] == []
