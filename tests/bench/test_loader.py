"""The benchmark of the loader feeds its clock with the same text either way."""

from pathlib import Path

import pytest
import torch

from bench import loader
from nanochat.data import tokenizer
from nanochat.data.feed import Feed
from nanochat.data.lanes import Lanes


def _lanes(folder: Path) -> Lanes:
    corpus = loader.large_corpus(folder, num_groups=2)
    sizes = {"num_lanes": 2, "rank": 0, "world_size": 1, "batch_size": loader.BATCH_SIZE, "seq_len": loader.SEQ_LEN}
    return Lanes(corpus, tokenizer.load(corpus), split="train", **sizes)


def test_the_control_serves_the_batches_that_the_thread_serves(tmp_path: Path):
    feed, control = Feed(_lanes(tmp_path), torch.device("cpu")), loader.InLine(_lanes(tmp_path), torch.device("cpu"))
    for _ in range(4):
        assert torch.equal(torch.stack(feed.next()), control.next())
    feed.close()


@pytest.mark.integration
def test_it_prints_a_line_for_the_thread_and_one_for_the_control(capsys: pytest.CaptureFixture[str]):
    loader.main(["--ranks", "2", "--lanes-per-rank", "1", "--seconds", "0.1", "--tok-per-sec", "100000"])
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.startswith("2 ranks on ")
    modes = ["thread, no step waits", "thread ", "control: in line"]
    assert all(line.startswith(mode) for line, mode in zip(lines, modes, strict=True))
