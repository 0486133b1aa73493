"""The text that a plan trains on: how much of it there is, how often a leg passes over it, and whether it is the same.

`plan` estimates from file sizes. `launch` and `restore` read every new file once, so that text that cannot be trained
on, or that is not what earlier legs of the experiment read, ends the command before anything is started.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nanochat.config import TrainConfig
    from nanochat.stats import TextFacts
    from sweeps.records.experiment import Experiment
    from sweeps.spec.plan import Trial


def check_texts(experiment: "Experiment", cluster: str) -> None:
    """Raises DriftError, exit code 6, if the text of a leg that is still to run is not what earlier legs read."""
    from sweeps.engine.trials.run import is_open
    from sweeps.records.texts import check_text

    records = zip(experiment.plan.trials, experiment.trials(), strict=True)
    for source, seen in read_texts((trial for trial, record in records if is_open(record)), cluster).items():
        check_text(experiment, source, seen)


def read_texts(trials: "Iterable[Trial]", cluster: str) -> "dict[str | None, TextFacts]":
    """What each `data.source` holds now; reads what was not read before.

    Raises TextError for what cannot be trained on. On a cluster, a folder that is missing here is left to the legs.
    """
    from cli.console import waiting_for
    from nanochat.data.corpus import open_corpus
    from sweeps.engine.cluster.checks import LOCAL

    sources = dict.fromkeys(trial.config.data.source for trial in trials)
    here = [source for source in sources if cluster == LOCAL or source is None or Path(source).expanduser().is_dir()]
    with waiting_for("the text to be read"):
        return {source: open_corpus(source).facts() for source in here}


def tell_amount(configs: "Iterable[TrainConfig]") -> None:
    """Notes and warnings of `amount_lines`, on stderr."""
    from cli.console import note, warn

    lines, warnings = amount_lines(configs)
    for line in lines:
        note(line)
    for warning in warnings:
        warn(warning)


def amount_lines(configs: "Iterable[TrainConfig]") -> tuple[list[str], list[str]]:
    """For each text a line with its tokens and the legs' passes over it; and warnings about too many."""
    from nanochat.config import ConfigError
    from nanochat.data.estimate import estimate_tokens
    from nanochat.sizes import batch_tokens, num_steps
    from nanochat.stats import MAX_PASSES

    needs: dict[str | None, list[int]] = {}
    for config in configs:
        needs.setdefault(config.data.source, []).append(num_steps(config) * batch_tokens(config))
    lines: list[str] = []
    warnings: list[str] = []
    for source, tokens in needs.items():
        name = "the text in the package" if source is None else source
        try:
            text_tokens = estimate_tokens(source)
        except ConfigError as error:
            warnings.append(f"passes over {name} are not known: {error}")
            continue
        most = max(tokens) / max(1, text_tokens)
        lines.append(
            f"each leg trains on {_millions(tokens)} tokens, about {_passes(tokens, text_tokens)} over {name} "
            f"(about {_millions([_rounded(text_tokens)])} tokens)"
        )
        if most > MAX_PASSES:
            warnings.append(
                f"about {most:,.0f} passes over {name}: from the fifth pass on text teaches little and losses look "
                "better than they are; give more text with --set data.source=FOLDER"
            )
    return lines, warnings


def num_passes(config: "TrainConfig") -> float | None:
    """About how often a leg passes over its text; None if the text cannot be read yet."""
    from nanochat.config import ConfigError
    from nanochat.data.estimate import estimate_tokens
    from nanochat.sizes import batch_tokens, num_steps

    try:
        return num_steps(config) * batch_tokens(config) / max(1, estimate_tokens(config.data.source))
    except ConfigError:
        return None


def _rounded(number: int) -> int:
    """To three digits: it is an estimate."""
    return round(number, 3 - len(str(number)))


def _millions(tokens: list[int]) -> str:
    return _range([f"{number / 1e6:,.1f} M" if number >= 1e6 else f"{number:,}" for number in sorted(tokens)])


def _passes(tokens: list[int], text_tokens: int) -> str:
    passes = [number / max(1, text_tokens) for number in sorted(tokens)]
    return f"{_range([f'{number:,.0f}' if number >= 10 else f'{number:.2g}' for number in passes])} passes"


def _range(ascending: list[str]) -> str:
    return ascending[0] if ascending[0] == ascending[-1] else f"{ascending[0]} to {ascending[-1]}"
