"""Text that a model continues with: what a run prints now and then, so that a person sees what was learnt.

Every new token is one forward pass over all tokens so far. There is no cache of keys and values: continuations are
short, and the uncompiled layers that score a text are then the only other path through the model.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from nanochat.data.tokenizer import Tokenizer
from nanochat.model.gpt import GPT

PROMPTS = (
    "It was a fine morning in May, and",
    "The largest planet of the solar system is",
    "She opened the letter and read:",
    "Water freezes when",
    "If two apples cost four pence, then three apples cost",
)
NUM_NEW_TOKENS = 24


def sample_token(
    logits: Tensor, temperature: float, top_k: int | None, generator: torch.Generator | None = None
) -> int:
    """One token from logits (V,): the best one at temperature 0, else drawn among the `top_k` best (None: all)."""
    if temperature == 0:
        return int(logits.argmax())
    best, ids = torch.topk(logits, min(top_k or len(logits), len(logits)))
    probs = torch.softmax(best.float() / temperature, dim=0).cpu()
    return int(ids[torch.multinomial(probs, 1, generator=generator)])


@torch.no_grad()
def generate(
    model: GPT,
    prompt: Sequence[int],
    num_tokens: int,
    *,
    temperature: float = 0.0,
    top_k: int | None = None,
    generator: torch.Generator | None = None,
) -> list[int]:
    """The `num_tokens` ids that follow `prompt` (at least one id); the model sees as many as fit its context.

    `generator` lives on the CPU; without one a draw takes from torch's global generator.
    """
    model.eval()
    context, device = model.config.model.seq_len, model.wte.weight.device
    ids = list(prompt)
    for _ in range(num_tokens):
        seen = torch.tensor([ids[-context:]], device=device)  # (1, T)
        logits = model.head.logits(model.residual(seen)[:, -1:])[0, 0]  # (V,)
        ids.append(sample_token(logits, temperature, top_k, generator))
    model.train()
    return ids[len(prompt) :]


def samples(model: GPT, tokenizer: Tokenizer) -> list[str]:
    """Each prompt with the model's best guess of what follows."""
    texts: list[str] = []
    for prompt in PROMPTS:
        ids = [tokenizer.bos_id, *tokenizer.encode(prompt)]
        texts.append(prompt + tokenizer.decode(generate(model, ids, NUM_NEW_TOKENS)))
    return texts
