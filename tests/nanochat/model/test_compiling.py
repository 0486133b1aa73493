"""Every compile mode trains every kind of model without a graph break, and blocks of a kind share one graph.

Most tests use dynamo alone, without the stages that make kernels: what breaks or recompiles is decided there.
"""

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from nanochat.checkpoints import folders as checkpoint_folders
from nanochat.config import TrainConfig, to_dict, with_overrides
from nanochat.flags import parse_flags
from nanochat.loop.setup import prepare
from nanochat.loop.stepping import Stepper
from nanochat.model import compiling
from nanochat.stats import Checkpoint, Hooks, StepStats
from nanochat.train import train
from tests.helpers.configs import FP8, tiny_config
from tests.helpers.runs import trained

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("fresh_process")]

ROUTER = {"moe.router_bias_rate": 0.01, "moe.router_z_loss_coeff": 0.01}


def _tiny(folder: Path, **overrides: Any) -> TrainConfig:
    """Four layers of two kinds (with and without a value embedding)."""
    sizes = {"model.depth": 4, "model.aspect_ratio": 16, "model.window_pattern": "L", "compile.mode": "static"}
    return tiny_config(folder, **(sizes | overrides))


def _assert_like_uncompiled(config: TrainConfig, rows: list[StepStats]) -> None:
    plain, _ = trained(with_overrides(config, {"compile.mode": "none"}))
    assert [row.loss for row in rows] == pytest.approx([row.loss for row in plain], abs=0.03)
    assert [row.dropped_pct for row in rows] == pytest.approx([row.dropped_pct for row in plain], abs=3)
    assert rows[-1].largest_router_bias == plain[-1].largest_router_bias
    assert (rows[-1].z_loss or 0) == pytest.approx(plain[-1].z_loss or 0, rel=0.01)


@pytest.mark.usefixtures("dynamo_alone")
@pytest.mark.parametrize(
    ("mode", "changes"),
    [
        ("static", {}),
        ("static", FP8),
        ("static", FP8 | {"moe.capacity_factor": 1.0}),
        ("dynamic", {}),
        ("dynamic", FP8),
        ("dynamic", FP8 | {"moe.capacity_factor": 1.25, "precision.recipe": "rowwise"}),
        ("auto", FP8 | {"moe.capacity_factor": 1.0}),
        ("static", ROUTER | {"moe.capacity_factor": 1.0}),
        ("dynamic", ROUTER),
    ],
)
def test_blocks_of_a_kind_share_a_graph_that_is_compiled_once_and_trains_like_uncompiled_blocks(
    small_text: Path, mode: str, changes: dict[str, Any]
):
    meant = parse_flags(["--use-moe", "--compile-mode", mode])[0].compile.mode
    config = _tiny(small_text, **changes, **{"compile.mode": meant, "schedule.num_steps": 7})
    rows, _ = trained(config)
    assert [row.compiled_graphs for row in rows] == [3] + [0] * 6, "two kinds of block and the head"
    assert [row.step for row in rows if "recompile" in row.flags] == [0, 1, 2, 3, 4, 5]
    _assert_like_uncompiled(config, rows)


@pytest.mark.parametrize(("linears", "expected"), [("bf16", []), ("fp8", ["torch._dynamo", "torchao"])])
def test_only_runs_that_need_the_compiler_and_torchao_import_them(small_text: Path, linears: str, expected: list[str]):
    code = (
        "import sys, json; from pathlib import Path; from nanochat.config import from_dict; "
        "from nanochat.stats import Hooks; from nanochat.train import train; "
        "train(from_dict(json.loads(sys.argv[1])), Hooks()); "
        "print(json.dumps([name for name in ('torch._dynamo', 'torchao') if name in sys.modules]))"
    )
    config = _tiny(small_text, **{"compile.mode": "none", "precision.linears": linears, "schedule.num_steps": 1})
    argv = [sys.executable, "-c", code, json.dumps(to_dict(config), default=str)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == expected


@pytest.mark.usefixtures("dynamo_alone")
def test_an_evaluation_between_steps_recompiles_no_step(small_text: Path):
    changes = {"moe.capacity_factor": 1.0, "eval.every": 3, "eval.num_tokens": 128, "schedule.num_steps": 8}
    rows, _ = trained(_tiny(small_text, **FP8, **changes))
    assert [row.step for row in rows if row.val_bpb is not None] == [2, 5, 7]
    assert [row.compiled_graphs for row in rows[1:]] == [0] * 7
    assert [row.step for row in rows if "recompile" in row.flags] == [0, 1, 2, 3, 4, 5]


@pytest.mark.usefixtures("dynamo_alone")
def test_a_run_that_compiles_anew_goes_on_at_its_checkpoint_as_if_undisturbed(small_text: Path, tmp_path: Path):
    changes = FP8 | ROUTER | {"moe.capacity_factor": 1.0, "schedule.num_steps": 5}
    config = _tiny(small_text, **changes)
    undisturbed, _ = trained(config)
    rows: list[StepStats] = []
    steps = itertools.count()

    def save(state: Checkpoint) -> None:
        checkpoint_folders.save(tmp_path, state, keep=2)

    hooks = Hooks(
        on_step=rows.append,
        save=save,
        checkpoints=lambda: checkpoint_folders.newest_first(tmp_path),
        should_stop=lambda: next(steps) == 2,
    )
    for _ in range(2):
        torch.compiler.reset()
        train(config, hooks)
    assert [(row.step, row.loss, row.dropped_pct, row.largest_router_bias) for row in rows] == [
        (row.step, row.loss, row.dropped_pct, row.largest_router_bias) for row in undisturbed
    ]


@pytest.mark.usefixtures("dynamo_alone")
@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_a_batch_may_be_a_view_or_not(small_text: Path, mode: str):
    run = prepare(_tiny(small_text, **{"compile.mode": mode}), Hooks())
    take_step = Stepper(run)
    batch = torch.stack(run.feed.next())  # (2, B, T)
    take_step.micro_step(*batch)
    before = compiling.num_graphs()
    take_step.micro_step(*(part.clone() for part in batch))
    run.feed.close()
    assert compiling.num_graphs() == before


@pytest.mark.usefixtures("dynamo_alone")
def test_dense_layers_between_expert_layers_are_a_kind_of_their_own(small_text: Path):
    before = compiling.num_graphs()
    trained(_tiny(small_text, **{"moe.every": 4, "schedule.num_steps": 1}))
    assert compiling.num_graphs() - before == 4, "experts, dense with and without value embedding, head"


@pytest.mark.usefixtures("dynamo_alone")
def test_a_model_of_many_kinds_of_layers_is_compiled_for_training_and_evaluation(small_text: Path):
    changes = {"model.depth": 12, "model.window_pattern": "SSSL", "moe.every": 3, "eval.every": 1}
    before = compiling.num_graphs()
    trained(_tiny(small_text, **changes, **{"model.aspect_ratio": 4, "eval.num_tokens": 128, "schedule.num_steps": 1}))
    assert compiling.num_graphs() - before == 2 * (6 + 1), "six kinds of block and the head, twice"


@pytest.mark.parametrize("changes", [{}, FP8, FP8 | {"moe.capacity_factor": 1.0}], ids=["bf16", "exact", "capacity"])
def test_without_compilation_there_are_no_graphs_and_no_flags(small_text: Path, changes: dict[str, Any]):
    rows, facts = trained(_tiny(small_text, **changes, **{"compile.mode": "none"}))
    assert {(row.compiled_graphs, row.flags) for row in rows} == {(0, ("warmup",))}
    assert facts[-1].compile_cache == "none"


@pytest.mark.parametrize(
    ("mode", "changes"),
    [("static", ROUTER), ("dynamic", FP8 | {"moe.capacity_factor": 1.0})],
    ids=["static", "dynamic"],
)
def test_compiled_by_inductor_a_run_trains_like_an_uncompiled_one(small_text: Path, mode: str, changes: dict[str, Any]):
    config = _tiny(small_text, **changes, **{"compile.mode": mode, "model.depth": 1, "model.aspect_ratio": 64})
    before = compiling.num_graphs()
    rows, facts = trained(config)
    assert compiling.num_graphs() - before == 2
    assert facts[-1].compile_cache in ("cold", "warm", "mixed")
    _assert_like_uncompiled(config, rows)
