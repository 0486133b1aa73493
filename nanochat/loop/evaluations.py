"""What is measured or shown between steps, every so many of them and at the end. All of it is collective."""

import math
from typing import NamedTuple

from nanochat.evaluation import core as core_eval
from nanochat.evaluation import generate
from nanochat.evaluation import loss as loss_eval
from nanochat.loop import logs
from nanochat.loop.setup import Run


class Evaluated(NamedTuple):
    """What was evaluated after a step; None: not due."""

    val_bpb: float | None
    core_metric: float | None

    @property
    def anything(self) -> bool:
        """True if an evaluation took time between this step and the next."""
        return self != (None, None)


def evaluate_if_due(run: Run) -> Evaluated:
    """The evaluations that are due now; the best validation loss is kept in the run's progress."""
    return Evaluated(_bits_per_byte_if_due(run), _core_metric_if_due(run))


def sample_if_due(run: Run) -> bool:
    """True if samples were due: rank 0 prints them and the others wait, so that the next step starts together."""
    if not _is_due(run, run.config.eval.sample_every):
        return False
    if run.ranks.is_first:
        for text in generate.samples(run.model, run.tokenizer):
            print(logs.sample_line(run.progress.steps_done, text), flush=True)
    run.ranks.barrier()
    return True


def _is_due(run: Run, every: int | None) -> bool:
    num_done = run.progress.steps_done
    return every is not None and (num_done % every == 0 or num_done == run.num_steps)


def _bits_per_byte_if_due(run: Run) -> float | None:
    evaluation, best = run.config.eval, run.progress.min_val_bpb
    if run.val_lanes is None or not _is_due(run, evaluation.every):
        return None
    value = loss_eval.bits_per_byte(run.model, run.val_lanes, run.token_bytes, evaluation.num_tokens, run.ranks)
    if not math.isnan(value):
        run.progress.min_val_bpb = value if best is None else min(best, value)
    return value


def _core_metric_if_due(run: Run) -> float | None:
    evaluation = run.config.eval
    if run.core_tasks is None or not _is_due(run, evaluation.core_every):
        return None
    return core_eval.core_metric(run.model, run.tokenizer, run.core_tasks, evaluation.core_max_per_task, run.ranks)
