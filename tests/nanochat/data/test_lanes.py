"""Lanes: packed rows without padding, the same on any number of ranks, and exact after a resume."""

import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.config import ConfigError
from nanochat.data import corpus as dataset
from nanochat.data import tokenizer
from nanochat.data.corpus import Corpus
from nanochat.data.lanes import SERVED_BITS, Lanes, PackingBuffer, served_by_all
from nanochat.data.shards import write_shard
from nanochat.data.tokenizer import Tokenizer

_BYTES = Tokenizer({bytes([i]): i for i in range(256)}, vocab_size=265)  # one token per byte, BOS is 256
_BOS = 256
Batch = torch.Tensor  # (2, B, T): inputs and targets


def _corpus(folder: Path, row_groups: list[list[str]], digest: str = "0" * 64) -> Corpus:
    folder.mkdir(parents=True, exist_ok=True)
    write_shard(folder / "train.parquet", row_groups)
    write_shard(folder / "val.parquet", [["validation"]])
    return Corpus(
        name="toy",
        text_digest=digest,
        tokenizer_digest="0" * 64,
        older_digest=f"older {digest}",
        train_shards=(folder / "train.parquet",),
        val_shard=folder / "val.parquet",
        tokenizer_dir=folder / "tokenizer",
    )


def _lanes(corpus: Corpus, encoder: Tokenizer = _BYTES, **changes: Any) -> Lanes:
    sizes = {"split": "train", "num_lanes": 1, "rank": 0, "world_size": 1, "batch_size": 1, "seq_len": 7} | changes
    return Lanes(corpus, encoder, **sizes)


def _state(lanes: Lanes) -> dict[int, dict[str, Any]]:
    return lanes.state(lanes.positions())


def _epoch(lanes: Lanes) -> int:
    return max(position.packing_epoch for position in lanes.positions().values())


def _row(batch: Batch) -> str:
    """The first row of a batch as text, with a bar for BOS."""
    ids = [*batch[0][0].tolist(), batch[1][0, -1].item()]
    return "".join("|" if i == _BOS else chr(i) for i in ids)


def _equal(ours: list[Batch], theirs: list[Batch]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.fixture(scope="module")
def austen(tmp_path_factory: pytest.TempPathFactory) -> tuple[Corpus, Tokenizer]:
    corpus = dataset.prepare_embedded(tmp_path_factory.mktemp("cache"))
    return corpus, tokenizer.load(corpus)


# Packing


def test_a_row_takes_the_longest_document_that_fits_and_then_what_fits_beside_it(tmp_path: Path):
    lanes = _lanes(_corpus(tmp_path, [["aaaaa", "bb", "c"]]))
    assert _row(lanes.next_batch(0)) == "|aaaaa|c"


def test_when_none_fits_the_shortest_is_cropped_to_fill_the_row(tmp_path: Path):
    lanes = _lanes(_corpus(tmp_path, [["aaaaaaaaaaaa", "bbbbbbbbb", "cccccccccc"]]))
    assert _row(lanes.next_batch(0)) == "|bbbbbbb"


def test_of_equally_long_documents_the_first_comes_first(tmp_path: Path):
    lanes = _lanes(_corpus(tmp_path, [["aaa", "bbb", "ccc", "ddd"]]))
    assert [_row(lanes.next_batch(0)) for _ in range(2)] == ["|aaa|bbb", "|ccc|ddd"]


def test_targets_are_the_inputs_one_token_later(austen: tuple[Corpus, Tokenizer]):
    inputs, targets = _lanes(*austen, batch_size=3, seq_len=64).next_batch(0)
    assert inputs.shape == targets.shape == (3, 64)
    assert inputs.dtype == targets.dtype == torch.int64
    assert torch.equal(inputs[:, 1:], targets[:, :-1])


def test_every_row_starts_with_bos_and_every_position_is_a_token(austen: tuple[Corpus, Tokenizer]):
    corpus, encoder = austen
    inputs, targets = _lanes(corpus, encoder, batch_size=64, seq_len=512).next_batch(0)
    assert inputs[:, 0].tolist() == [encoder.bos_id] * 64
    used = torch.cat([inputs, targets])
    assert bool(((used < encoder.num_merged_ids) | (used == encoder.bos_id)).all())


def test_an_empty_document_is_a_bos_alone(tmp_path: Path):
    lanes = _lanes(_corpus(tmp_path, [["", "aaaaaa"]]))
    assert _row(lanes.next_batch(0)) == "|aaaaaa|"


@settings(deadline=None)
@given(
    st.lists(st.integers(min_value=1, max_value=12), min_size=1, max_size=30),
    st.lists(st.integers(min_value=1, max_value=12), max_size=30),
)
def test_the_buffer_picks_what_a_plain_search_would_pick(lengths: list[int], spaces: list[int]):
    buffer, waiting = PackingBuffer(), list(enumerate(lengths))
    for number, length in waiting:
        buffer.add(np.full(length, number))
    for space in spaces[: len(lengths)]:
        fitting = [item for item in waiting if item[1] <= space]
        number, length = (
            max(fitting, key=lambda item: (item[1], -item[0]))
            if fitting
            else min(waiting, key=lambda item: (item[1], item[0]))
        )
        waiting.remove((number, length))
        assert buffer.take(space).tolist() == [number] * min(length, space)
    assert [document[0] for document in buffer.documents()] == [number for number, _ in waiting]


def test_best_fit_throws_little_away_on_rows_longer_than_documents(austen: tuple[Corpus, Tokenizer]):
    corpus, encoder = austen
    lanes = _lanes(corpus, encoder, batch_size=8, seq_len=2048)
    total = sum(len(ids) + 1 for ids in encoder.encode_batch(_texts(corpus)))
    num_batches = 0
    while _epoch(lanes) == 1:
        lanes.next_batch(0)
        num_batches += 1
    assert num_batches * 8 * 2049 > 0.85 * total


def _texts(corpus: Corpus) -> list[str]:
    return [text for shard in corpus.train_shards for text in pq.read_table(shard)["text"].to_pylist()]


# Lanes and ranks


def test_lanes_own_row_groups_in_turn_and_go_round_in_epochs(tmp_path: Path):
    corpus = _corpus(tmp_path, [["aaaaaaa"], ["bbbbbbb"], ["ccccccc"], ["ddddddd"], ["eeeeeee"]])
    lanes = _lanes(corpus, num_lanes=2)
    assert [_row(lanes.next_batch(0))[1] for _ in range(7)] == list("aceacea")
    assert [_row(lanes.next_batch(1))[1] for _ in range(5)] == list("bdbdb")


def test_more_lanes_than_row_groups_share_their_documents(tmp_path: Path):
    corpus = _corpus(tmp_path, [["aaaaaaa", "bbbbbbb", "ccccccc", "ddddddd"], ["eeeeeee", "fffffff"]])
    lanes = _lanes(corpus, num_lanes=4)
    seen = {lane: [_row(lanes.next_batch(lane))[1] for _ in range(3)] for lane in lanes.my_lanes}
    assert seen == {0: list("aca"), 1: list("eee"), 2: list("bdb"), 3: list("fff")}


def test_more_lanes_than_documents_read_some_of_them_together(tmp_path: Path):
    corpus = _corpus(tmp_path, [["aaaaaaa", "bbbbbbb"]])
    lanes = _lanes(corpus, num_lanes=5)
    assert [_row(lanes.next_batch(lane))[1] for lane in lanes.my_lanes] == list("ababa")


@pytest.mark.parametrize("world_size", [1, 2, 3, 6])
def test_any_number_of_ranks_sees_the_same_batches(austen: tuple[Corpus, Tokenizer], world_size: int):
    alone = _lanes(*austen, num_lanes=6, batch_size=2, seq_len=100)
    ranks = [
        _lanes(*austen, num_lanes=6, batch_size=2, seq_len=100, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    for _ in range(3):
        for lane in range(6):
            assert _equal([alone.next_batch(lane)], [ranks[lane % world_size].next_batch(lane)])


def test_the_ranks_serve_every_lane_once(tmp_path: Path):
    corpus = _corpus(tmp_path, [["a"]])
    served = [list(_lanes(corpus, num_lanes=6, rank=rank, world_size=3).my_lanes) for rank in range(3)]
    assert served == [[0, 3], [1, 4], [2, 5]]


def test_lanes_that_do_not_divide_by_the_ranks_are_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="a step of 4 micro-batches cannot be shared evenly by 3 ranks"):
        _lanes(_corpus(tmp_path, [["a"]]), num_lanes=4, world_size=3)


def test_more_ranks_than_lanes_are_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="a step of 1 micro-batches cannot be shared evenly by 2 ranks"):
        _lanes(_corpus(tmp_path, [["a"]]), num_lanes=1, world_size=2)


# Epochs


def test_the_epoch_counts_passes_by_packed_documents(tmp_path: Path):
    corpus = _corpus(tmp_path, [["aaaaaaa", "bbbbbbb", "ccccccc"]])
    lanes = _lanes(corpus)
    epochs = [_epoch(lanes)]
    for _ in range(9):
        lanes.next_batch(0)
        epochs.append(_epoch(lanes))
    assert epochs == [1, 1, 1, 2, 2, 2, 3, 3, 3, 4]


def test_every_document_is_packed_once_per_epoch_when_nothing_is_cropped(tmp_path: Path):
    corpus = _corpus(tmp_path, [["aaaaaaa", "bbbbbbb"], ["ccccccc"]])
    lanes = _lanes(corpus)
    rows = [_row(lanes.next_batch(0))[1] for _ in range(9)]
    assert [sorted(rows[i : i + 3]) for i in (0, 3, 6)] == [list("abc")] * 3


# Validation


def test_validation_reads_the_validation_shard_alone(tmp_path: Path):
    lanes = _lanes(_corpus(tmp_path, [["training"]]), split="val", seq_len=10)
    assert _row(lanes.next_batch(0)) == "|validation"


def test_validation_starts_over_after_a_reset(austen: tuple[Corpus, Tokenizer]):
    lanes = _lanes(*austen, split="val", num_lanes=2, batch_size=4, seq_len=256)
    first = [lanes.next_batch(lane) for _ in range(8) for lane in (0, 1)]
    lanes.reset()
    assert _equal(first, [lanes.next_batch(lane) for _ in range(8) for lane in (0, 1)])


# Resume


def _take(lanes: Lanes, num_rounds: int) -> dict[int, list[Batch]]:
    return {lane: [lanes.next_batch(lane) for _ in range(num_rounds)] for lane in lanes.my_lanes}


@pytest.fixture(scope="module")
def undisturbed(austen: tuple[Corpus, Tokenizer]) -> tuple[dict[int, bytes], dict[int, list[Batch]]]:
    """States of four lanes after some rounds, the last in their second epoch; and the batches of all rounds by lane."""
    lanes = _lanes(*austen, num_lanes=4, batch_size=16, seq_len=512)
    states: dict[int, bytes] = {}
    batches: dict[int, list[Batch]] = {lane: [] for lane in lanes.my_lanes}
    for num_rounds in range(30 + 12):
        if num_rounds in (0, 1, 9, 30):
            states[num_rounds] = pickle.dumps(_state(lanes))
            assert _epoch(lanes) == (2 if num_rounds == 30 else 1)
        for lane, (batch,) in _take(lanes, 1).items():
            batches[lane].append(batch)
    return states, batches


@pytest.mark.parametrize("num_rounds_before", [0, 1, 9, 30])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_batches_after_a_resume_are_the_batches_without_one(
    austen: tuple[Corpus, Tokenizer],
    undisturbed: tuple[dict[int, bytes], dict[int, list[Batch]]],
    num_rounds_before: int,
    world_size: int,
):
    states, expected = undisturbed
    for rank in range(world_size):
        resumed = _lanes(*austen, num_lanes=4, batch_size=16, seq_len=512, rank=rank, world_size=world_size)
        resumed.load_state(pickle.loads(states[num_rounds_before]))
        for lane, batches in _take(resumed, 12).items():
            assert _equal(batches, expected[lane][num_rounds_before : num_rounds_before + 12])


def test_a_resume_is_exact_at_every_point_of_several_epochs_of_a_small_corpus(tmp_path: Path):
    corpus = _corpus(tmp_path, [["aaaa", "bb", "cccccc"], ["d", "eeeee"], ["ffffffffffff"]])
    rows = [_row(batch) for batch in _take(_lanes(corpus), 30)[0]]
    for num_before in range(20):
        before = _lanes(corpus)
        _take(before, num_before)
        after = _lanes(corpus)
        after.load_state(_state(before))
        assert _epoch(after) == _epoch(before)
        assert [_row(batch) for batch in _take(after, 10)[0]] == rows[num_before : num_before + 10]


def test_the_states_of_two_ranks_together_resume_one_rank(austen: tuple[Corpus, Tokenizer]):
    halves = [_lanes(*austen, num_lanes=4, batch_size=2, seq_len=64, rank=r, world_size=2) for r in (0, 1)]
    for half in halves:
        _take(half, 3)
    states = _state(halves[0]) | _state(halves[1])
    whole = _lanes(*austen, num_lanes=4, batch_size=2, seq_len=64)
    whole.load_state(states)
    after = _take(halves[0], 2) | _take(halves[1], 2)
    assert all(_equal(batches, after[lane]) for lane, batches in _take(whole, 2).items())


def test_a_state_is_not_changed_by_the_batches_after_it(tmp_path: Path):
    lanes = _lanes(_corpus(tmp_path, [["aaaa", "bb", "cccccc"]]))
    lanes.next_batch(0)
    state = _state(lanes)
    before = pickle.dumps(state)
    lanes.next_batch(0)
    assert pickle.dumps(state) == before


def test_a_resume_tokenizes_nothing_that_is_in_the_buffer(tmp_path: Path):
    class Counting(Tokenizer):
        num_encoded = 0

        def encode_batch(self, texts: Any) -> list[list[int]]:
            self.num_encoded += len(texts)
            return super().encode_batch(texts)

    counting = Counting({bytes([i]): i for i in range(256)}, vocab_size=265)
    corpus = _corpus(tmp_path, [[letter * 7 for letter in "abcdefgh"]])
    lanes = _lanes(corpus)
    _take(lanes, 3)
    resumed = _lanes(corpus, counting)
    resumed.load_state(_state(lanes))
    assert counting.num_encoded == 0
    resumed.next_batch(0)
    assert counting.num_encoded == 1


def test_a_state_is_about_two_bytes_per_buffered_token(austen: tuple[Corpus, Tokenizer]):
    lanes = _lanes(*austen)
    lanes.next_batch(0)
    state = _state(lanes)[0]
    assert len(state["lengths"]) in range(900, 1126)
    assert state["tokens"].nbytes == 2 * state["lengths"].sum()
    assert len(pickle.dumps(state)) < 2.1 * state["lengths"].sum()


def test_a_state_of_another_lane_count_is_refused(tmp_path: Path):
    corpus = _corpus(tmp_path, [["a"], ["b"], ["c"], ["d"]])
    with pytest.raises(ConfigError, match="written with 2 micro-batches per step and this run has 1"):
        _lanes(corpus).load_state(_state(_lanes(corpus, num_lanes=2)))
    with pytest.raises(ConfigError, match="no data position for lane 2 of 4"):
        _lanes(corpus, num_lanes=4, rank=2, world_size=4).load_state(_state(_lanes(corpus, num_lanes=2)))


def test_a_state_of_another_corpus_is_refused(tmp_path: Path):
    here = _corpus(tmp_path / "here", [["a"]])
    there = _corpus(tmp_path / "there", [["a"]], digest="1" * 64)
    seen = rf"another text or with another tokenizer \(digest {there.digest[:8]}, this one is {here.digest[:8]}\)"
    with pytest.raises(ConfigError, match=seen):
        _lanes(here).load_state(_state(_lanes(there)))


def test_a_state_that_knows_names_and_sizes_only_is_continued_without_a_digest_of_what_was_served(tmp_path: Path):
    corpus = _corpus(tmp_path, [["aaaa", "bb", "cccccc"]])
    lanes = _lanes(corpus)
    lanes.next_batch(0)
    older = _state(lanes)
    older[0]["corpus_digest"] = corpus.older_digest
    del older[0]["served"]
    resumed = _lanes(corpus)
    resumed.load_state(older)
    assert torch.equal(resumed.next_batch(0), lanes.next_batch(0))
    assert resumed.position(0).served is None
    assert served_by_all([resumed.position(0).served, 1]) is None


# What was served


@settings(max_examples=25, deadline=None)
@given(ranks=st.sampled_from([1, 2, 4]), stops=st.lists(st.integers(0, 4), max_size=2), steps=st.integers(1, 6))
def test_equal_steps_have_equal_digests_on_any_ranks_and_after_any_resume(
    tmp_path_factory: pytest.TempPathFactory, ranks: int, stops: list[int], steps: int
):
    corpus = _corpus(tmp_path_factory.mktemp("text"), [[c * (i + 3) for i in range(9)] for c in "abcdef"])

    def served(world_size: int, stops: list[int]) -> list[int | None]:
        members = [_lanes(corpus, num_lanes=4, rank=rank, world_size=world_size) for rank in range(world_size)]
        digests: list[int | None] = []
        for step in range(steps):
            if step in stops:
                states = {number: state for member in members for number, state in _state(member).items()}
                members = [_lanes(corpus, num_lanes=4, rank=rank, world_size=world_size) for rank in range(world_size)]
                for member in members:
                    member.load_state(pickle.loads(pickle.dumps(states)))
            for member in members:
                for lane in member.my_lanes:
                    member.next_batch(lane)
            of_ranks = [served_by_all(p.served for p in member.positions().values()) for member in members]
            digests.append(served_by_all(of_ranks))
        return digests

    expected = served(1, [])
    assert served(ranks, stops) == expected
    assert len(set(expected)) == steps
    assert all(0 <= digest < 2**SERVED_BITS for digest in expected if digest is not None)


def test_other_tokens_and_tokens_of_other_lanes_have_other_digests(tmp_path: Path):
    texts = [["aaaa"], ["bbbb"]]
    digests = set()
    for name, groups in (("same", texts), ("swapped", texts[::-1]), ("other", [["aaaa"], ["bbbc"]])):
        lanes = _lanes(_corpus(tmp_path / name, groups), num_lanes=2, seq_len=4)
        for lane in (0, 1):
            lanes.next_batch(lane)
        digests.add(served_by_all(p.served for p in lanes.positions().values()))
    assert len(digests) == 3


def test_batches_may_be_made_in_another_thread(austen: tuple[Corpus, Tokenizer]):
    expected = _take(_lanes(*austen, num_lanes=2), 3)
    lanes, made = _lanes(*austen, num_lanes=2), dict[int, list[Batch]]()
    thread = threading.Thread(target=lambda: made.update(_take(lanes, 3)))
    thread.start()
    thread.join()
    assert all(_equal(made[lane], expected[lane]) for lane in (0, 1))


@pytest.mark.parametrize("name", ["epoch", "turn", "next_text", "num_read"])
@pytest.mark.parametrize("value", [-1, 1.5, True, "1", None, 10**30])
def test_a_position_that_is_none_is_refused(tmp_path: Path, name: str, value: object):
    corpus = _corpus(tmp_path, [["a"], ["b"]])
    states = _state(_lanes(corpus))
    states[0] = {**states[0], name: value}
    with pytest.raises(TypeError, match=f"{name} of a lane is"):
        _lanes(corpus).load_state(states)


def test_tokens_that_the_vocabulary_does_not_have_are_refused(tmp_path: Path):
    corpus = _corpus(tmp_path, [["a"], ["b"]])
    states = _state(_lanes(corpus))
    states[0] = {**states[0], "tokens": np.array([1, 2**15], dtype=np.uint16), "lengths": np.array([2])}
    with pytest.raises(TypeError, match=r"a lane holds token 32768"):
        _lanes(corpus).load_state(states)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("served", value) for value in (-1, 1.5, "00ff", 10**400, np.zeros(0))),
        *(("num_lanes", value) for value in (None, "1", np.zeros(0), 2.0)),
        *(("corpus_digest", value) for value in (None, 7, np.zeros(3), ["0" * 64])),
        *(("tokens", value) for value in ("x", [1, 2], None, np.zeros(2), np.zeros((2, 1), dtype=np.uint16))),
        *(("lengths", value) for value in ("x", [2], np.array([2.0]), np.array([[2]]), np.array(2))),
        *(("lengths", np.array(lengths)) for lengths in ([1], [3], [3, -1], [2**62, 2**62, 2])),
    ],
    ids=str,
)
def test_a_lane_whose_state_is_of_another_kind_is_refused_and_stays_as_it_was(tmp_path: Path, name: str, value: object):
    corpus = _corpus(tmp_path, [["a"], ["b"]])
    lanes = _lanes(corpus)
    before = pickle.dumps(_state(lanes))
    two = {"tokens": np.array([1, 2], dtype=np.uint16), "lengths": np.array([2])}
    states = {0: {**_state(lanes)[0], **two, name: value}}
    with pytest.raises((TypeError, ConfigError)):
        lanes.load_state(states)
    assert pickle.dumps(_state(lanes)) == before
