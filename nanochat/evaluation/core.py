"""The CORE metric: how much better than guessing a model answers questions that it is shown as plain text.

A choice is judged by the loss of the tokens that tell the choices apart: those after the common beginning where the
choices differ in their end, those of the common end where they differ in their context. A text to be continued counts
when every token of its end is the model's first guess. The accuracy of a task is centred, so that guessing gives 0 and
knowing gives 1, and CORE is the mean over tasks.

Legend: T tokens of a text, B texts, D width, V vocabulary, n judged tokens.
"""

from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat.data.tokenizer import Tokenizer
from nanochat.evaluation.core_tasks import Task, TaskKind, texts_of
from nanochat.machine.ranks import Ranks
from nanochat.model.gpt import GPT


class Text(NamedTuple):
    """Token ids, and the span of them that is judged; start is at least 1, as nothing predicts the first token."""

    ids: list[int]
    start: int
    end: int


class Judged(NamedTuple):
    """What the model makes of a text's span."""

    mean_loss: float
    all_guessed: bool  # every token had the highest score


Judge = Callable[[Sequence[Text]], list[Judged]]


def spans(kind: TaskKind, token_ids: Sequence[list[int]], context: int) -> list[Text]:
    """The texts to judge, each cropped on the left to `context` tokens."""
    if kind == "language_modeling":
        shorter, whole = token_ids
        texts = [Text(whole, min(_num_common(shorter, whole), len(whole) - 1), len(whole))]
    elif kind == "multiple_choice":
        common = min(_num_common(token_ids[0], ids) for ids in token_ids)
        texts = [Text(ids, min(common, len(ids) - 1), len(ids)) for ids in token_ids]
    else:
        common = min(_num_common(token_ids[0][::-1], ids[::-1]) for ids in token_ids)
        texts = [Text(ids, len(ids) - max(common, 1), len(ids)) for ids in token_ids]
    return [_cropped(text, context) for text in texts]


def is_correct(kind: TaskKind, judged: Sequence[Judged], gold: int | None) -> bool:
    """Whether the question is answered: all guessed, or the right choice has the lowest mean loss."""
    if kind == "language_modeling":
        return judged[0].all_guessed
    return min(range(len(judged)), key=lambda i: judged[i].mean_loss) == gold


def centred(accuracy: float, baseline: float) -> float:
    """Accuracy on a scale on which guessing is 0 and knowing everything is 1."""
    return (accuracy - baseline) / (1 - baseline)


def judge_tokens(logits: Tensor, targets: Tensor) -> Judged:
    """From the logits (n, V) that predict the judged tokens (n,)."""
    loss = F.cross_entropy(logits.float(), targets)
    return Judged(loss.item(), bool((logits.argmax(-1) == targets).all()))


def judge_with(model: GPT) -> Judge:
    """The judge that a model is, in evaluation: texts of one question in one padded batch."""

    @torch.no_grad()
    def judge(texts: Sequence[Text]) -> list[Judged]:
        longest = max(len(text.ids) for text in texts)
        padded = [text.ids + [0] * (longest - len(text.ids)) for text in texts]  # what follows is never looked at
        ids = torch.tensor(padded, device=model.wte.weight.device)  # (B, T)
        x = model.residual(ids)  # (B, T, D)
        judged: list[Judged] = []
        for row, text in enumerate(texts):
            logits = model.head.logits(x[row : row + 1, text.start - 1 : text.end - 1])[0]  # (n, V)
            judged.append(judge_tokens(logits, ids[row, text.start : text.end]))
        return judged

    return judge


def num_correct(
    task: Task, judge: Judge, tokenizer: Tokenizer, context: int, max_questions: int, ranks: Ranks
) -> Tensor:
    """How many of this rank's questions of a task are answered, and how many it was asked: (2,)."""
    questions = task.questions(max_questions)
    mine = range(ranks.rank, len(questions), ranks.world_size)
    correct = 0
    for index in mine:
        token_ids = [[tokenizer.bos_id, *ids] for ids in tokenizer.encode_batch(texts_of(task, questions, index))]
        judged = judge(spans(task.kind, token_ids, context))
        correct += is_correct(task.kind, judged, questions[index].get("gold"))
    return torch.tensor([correct, len(mine)], dtype=torch.float64)


def core_metric(model: GPT, tokenizer: Tokenizer, tasks: Sequence[Task], max_questions: int, ranks: Ranks) -> float:
    """The mean of the tasks' centred accuracies. Collective: the questions are split over ranks."""
    model.eval()
    judge, context = judge_with(model), model.config.model.seq_len
    counts = [num_correct(task, judge, tokenizer, context, max_questions, ranks) for task in tasks]
    model.train()
    everyone = torch.tensor(ranks.all_gather_floats(torch.cat(counts).tolist()), dtype=torch.float64)
    totals = everyone.sum(0).view(len(tasks), 2)
    accuracies = (totals[:, 0] / totals[:, 1]).tolist()
    return sum(centred(a, task.baseline) for a, task in zip(accuracies, tasks, strict=True)) / len(tasks)


def _num_common(a: Sequence[int], b: Sequence[int]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


def _cropped(text: Text, context: int) -> Text:
    cut = max(len(text.ids) - context, 0)
    return Text(text.ids[cut:], max(text.start - cut, 1), text.end - cut)
