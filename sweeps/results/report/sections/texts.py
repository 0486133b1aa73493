"""How much text the legs train on, with a warning if they pass over it many times or saw different tokens."""

from nanochat.stats import MAX_PASSES
from sweeps.results.measures.snapshot import Snapshot
from sweeps.results.measures.texts import Passes, other_tokens, passes_of
from sweeps.results.report.blocks import Code, Strong, Words
from sweeps.spec.words import counted, fixed


def text_lines(snapshot: Snapshot) -> list[Words]:
    """One line for each amount of text and of tokens, and one for each trial that was served other tokens."""
    amounts = passes_of(snapshot)
    lines = [_line(amount, all_alike=len(amounts) == 1) for amount in amounts]
    for found in other_tokens(snapshot):
        seen = f" was served other tokens than {found.first} from step {found.step} on"
        lines.append((Strong("Not the same text: "), Code(found.run), f"{seen}, so their losses do not compare"))
    return lines


def _line(amount: Passes, *, all_alike: bool) -> Words:
    others = len(amount.runs) - 1
    who = (Code(amount.runs[0]), f" and {counted(others, 'other run')} train" if others else " trains")
    many = amount.passes > MAX_PASSES
    shown = fixed(amount.passes, 0) if amount.passes >= 10 else f"{amount.passes:.2g}"
    tokens, text = f"{amount.num_tokens / 1e6:,.2f} M", f"{amount.text_tokens / 1e6:,.2f} M"
    amounts = f" on {tokens} tokens: about {shown} passes over a text of {text} tokens"
    start = ("Each run trains",) if all_alike else who
    if not many:
        return (*start, amounts)
    return (*start, amounts, ". ", Strong(f"More than {MAX_PASSES} passes"), ": losses look better than they are")
