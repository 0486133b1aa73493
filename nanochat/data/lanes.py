"""Documents become training rows, in lanes that do not depend on how many processes there are.

A lane is one endless stream of batches with its own documents and its own packing buffer. An optimizer step takes one
batch of every lane; rank r serves lanes r, r+W, r+2W, ... So another number of ranks sees the same batches, and a lane
moves to another rank as one small state: where it reads, and what is in its buffer.

Rows hold T+1 tokens and start with BOS, as every document does. A row is filled best-fit from the buffer: the longest
document that still fits, and when none fits the shortest one, cropped; the rest of that one is thrown away. Every
position is used. Among equally long documents the one that came first is taken, so the rows follow from the documents'
order alone.

A lane keeps a running digest of all tokens that it has served, so that equal steps of two runs can be seen to have
trained on equal tokens.

Lane l owns row groups l, l+L, l+2L, ... of the split. With fewer row groups than lanes, lanes share: lane l takes row
group l mod G, of which its n sharers take every n-th document each; if there are not even n documents, some lanes
read the same one. The buffer holds 1,000 documents, or all that the lane has if these are fewer, so that a small corpus
is not in the buffer many times over.
"""

import bisect
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from nanochat.config import ConfigError
from nanochat.data.corpus import Corpus
from nanochat.data.shards import RowGroup, RowGroups
from nanochat.data.tokenizer import Tokenizer

BUFFER_DOCUMENTS = 1000
_REFILLS_PER_BUFFER = 8

Split = Literal["train", "val"]
Tokens = np.ndarray[Any, np.dtype[Any]]

SERVED_BITS = 48  # of a digest of served tokens: a float holds it without loss
_SERVED_MODULUS = 2**SERVED_BITS


def served_by(before: Iterable[int], rows: Tokens | None = None) -> int:
    """The digest of served tokens from those before and the rows that follow them, an integer of SERVED_BITS bits."""
    seen = hashlib.blake2b(repr(list(before)).encode(), digest_size=SERVED_BITS // 8)
    if rows is not None:
        seen.update(np.ascontiguousarray(rows).data)
    return int.from_bytes(seen.digest(), "little")


def served_by_all(lanes: Iterable[int | None]) -> int | None:
    """The digest of all lanes from those of each, or of parts of them in any order: a sum. None if one is not known."""
    total = 0
    for served in lanes:
        if served is None:
            return None
        total = (total + served) % _SERVED_MODULUS
    return total


def digest_text(served: int | None) -> str | None:
    """A digest of served tokens in hex, as rows have it."""
    return None if served is None else f"{served:0{SERVED_BITS // 4}x}"


class PackingBuffer:
    """Tokenized documents, found by length."""

    def __init__(self) -> None:
        self._order: list[tuple[int, int]] = []  # (length, arrival), ascending
        self._documents: dict[int, Tokens] = {}  # by arrival
        self._num_arrived = 0

    def __len__(self) -> int:
        return len(self._order)

    def add(self, document: Tokens) -> None:
        """Puts a document in; it has at least one token."""
        bisect.insort(self._order, (len(document), self._num_arrived))
        self._documents[self._num_arrived] = document
        self._num_arrived += 1

    def take(self, space: int) -> Tokens:
        """Removes and returns the longest document of at most `space` tokens, else `space` tokens of the shortest."""
        num_fitting = bisect.bisect_left(self._order, (space + 1, -1))
        longest = self._order[num_fitting - 1][0] if num_fitting else None
        position = 0 if longest is None else bisect.bisect_left(self._order, (longest, -1))
        _, arrival = self._order.pop(position)
        return self._documents.pop(arrival)[:space]

    def documents(self) -> tuple[Tokens, ...]:
        """What is in the buffer, in order of arrival."""
        return tuple(self._documents.values())


@dataclass(frozen=True)
class Position:
    """A place in a lane's stream: where it reads on, and which documents wait in its buffer.

    It shares the documents, so that one can be taken after every batch; `state` copies them.
    """

    epoch: int  # of the next document that is read, from 1
    turn: int  # which of its row groups the lane reads, from 0
    next_text: int  # which of the lane's documents in there comes next
    num_read: int  # documents read in this epoch
    documents: tuple[Tokens, ...]  # in order of arrival
    served: int | None = None  # digest of all tokens served so far; None behind a checkpoint that has none

    @property
    def packing_epoch(self) -> int:
        """The pass, from 1, that the next packed document belongs to, by counting packed documents."""
        return max(1, self.epoch - (len(self.documents) > self.num_read))

    def state(self) -> dict[str, Any]:
        """Plain values for a checkpoint, the documents as one array of tokens with their lengths."""
        return {
            "epoch": self.epoch,
            "turn": self.turn,
            "next_text": self.next_text,
            "num_read": self.num_read,
            "served": self.served,
            "tokens": np.concatenate(self.documents) if self.documents else np.zeros(0, np.uint16),
            "lengths": np.array([len(document) for document in self.documents], dtype=np.int32),
        }


@dataclass(frozen=True)
class _Share:
    """Which row groups a lane reads in one epoch, in turn, and which of their documents."""

    groups: RowGroups
    first_group: int
    group_stride: int | None  # None: the first one alone
    first_row: int = 0
    row_stride: int = 1

    @staticmethod
    def of(groups: RowGroups, lane: int, num_lanes: int) -> "_Share":
        """The share of a lane among all lanes."""
        if groups.get(num_lanes - 1) is not None:
            return _Share(groups, lane, num_lanes)
        num_groups = next(number for number in range(num_lanes) if groups.get(number) is None)
        first_group = lane % num_groups
        num_sharers = len(range(first_group, num_lanes, num_groups))
        group = groups.get(first_group)
        num_rows = 1 if group is None else group.num_rows
        return _Share(groups, first_group, None, (lane // num_groups) % num_rows, min(num_sharers, num_rows))

    def group(self, turn: int) -> RowGroup | None:
        """The row group of this turn; None when the epoch is over."""
        if self.group_stride is None:
            return self.groups.get(self.first_group) if turn == 0 else None
        return self.groups.get(self.first_group + turn * self.group_stride)

    def read(self, turn: int) -> list[str]:
        """The lane's documents of the row group of this turn."""
        group = self.group(turn)
        return [] if group is None else self.groups.read(group)[self.first_row :: self.row_stride]

    def count_documents(self, enough: int) -> int:
        """How many documents one epoch has; stops counting at `enough`."""
        count = turn = 0
        while count < enough and (group := self.group(turn)) is not None:
            count += len(range(self.first_row, group.num_rows, self.row_stride))
            turn += 1
        return count


class Lane:
    """One stream of documents and its packing buffer."""

    def __init__(self, groups: RowGroups, tokenizer: Tokenizer, lane: int, num_lanes: int) -> None:
        self._tokenizer = tokenizer
        self._dtype = np.uint16 if tokenizer.vocab_size <= 2**16 else np.int32
        self._share = _Share.of(groups, lane, num_lanes)
        self._buffer_size = min(BUFFER_DOCUMENTS, self._share.count_documents(BUFFER_DOCUMENTS))
        self._batch_size = max(1, self._buffer_size // _REFILLS_PER_BUFFER)
        self._texts: list[str] | None = None  # this lane's documents of the current row group, once read
        self._epoch, self._turn, self._next_text, self._num_read = 1, 0, 0, 0
        self._buffer = PackingBuffer()
        self._served: int | None = served_by([lane])  # not 0, or the sum over lanes would not know which lane is which

    def fill(self, rows: Tokens) -> None:
        """Packs documents into every position of `rows` (B, T+1)."""
        for row in rows:
            self._fill_row(row)
        if self._served is not None:
            self._served = served_by([self._served], rows.astype(self._dtype))

    def _fill_row(self, row: Tokens) -> None:
        """Packs documents into every position of `row`."""
        filled = 0
        while filled < len(row):
            while len(self._buffer) < self._buffer_size:
                self._refill()
            document = self._buffer.take(len(row) - filled)
            row[filled : filled + len(document)] = document
            filled += len(document)

    def _refill(self) -> None:
        """Tokenizes the next few documents, at most up to the end of the row group."""
        texts = self._read_group()
        chosen = texts[self._next_text : self._next_text + self._batch_size]
        for ids in self._tokenizer.encode_batch(chosen):
            self._buffer.add(np.array([self._tokenizer.bos_id, *ids], dtype=self._dtype))
        self._next_text += len(chosen)
        self._num_read += len(chosen)

    def _read_group(self) -> list[str]:
        """The current row group's documents; moves on, and into the next epoch, when they are used up."""
        while True:
            if self._texts is None:
                self._texts = self._share.read(self._turn)
            if self._next_text < len(self._texts):
                return self._texts
            self._texts, self._next_text, self._turn = None, 0, self._turn + 1
            if self._share.group(self._turn) is None:
                self._turn, self._num_read, self._epoch = 0, 0, self._epoch + 1

    def position(self) -> Position:
        """Where the lane is now."""
        documents = self._buffer.documents()
        return Position(self._epoch, self._turn, self._next_text, self._num_read, documents, self._served)

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continues where `state` was taken; nothing is tokenized again. Raises TypeError for what is no state."""
        for name in ("epoch", "turn", "next_text", "num_read"):
            _check_number(name, state[name])
        if state.get("served") is not None:
            _check_number("served", state["served"])
        tokens, lengths = (_whole_numbers(name, state[name]) for name in ("tokens", "lengths"))
        if tokens.size and not 0 <= tokens.min() <= tokens.max() < self._tokenizer.vocab_size:
            raise TypeError(f"a lane holds token {tokens.max()} of {self._tokenizer.vocab_size}")
        if (lengths < 0).any() or sum(lengths.tolist()) != len(tokens):
            raise TypeError(f"the documents of a lane do not have its {len(tokens)} tokens together")
        self._epoch, self._turn = state["epoch"], state["turn"]
        self._next_text, self._num_read = state["next_text"], state["num_read"]
        self._served = state.get("served")
        self._texts = None
        self._buffer = PackingBuffer()
        for document in np.split(tokens.astype(self._dtype), np.cumsum(lengths)[:-1]):
            if len(document):
                self._buffer.add(document)


def _check_number(name: str, value: Any) -> None:
    if type(value) is not int or not 0 <= value < 2**53:
        raise TypeError(f"{name} of a lane is {str(value)[:40]!r}, not a number from 0")


def _whole_numbers(name: str, value: Any) -> Tokens:
    if not isinstance(value, np.ndarray) or value.ndim != 1 or value.dtype.kind not in "iu":
        raise TypeError(f"{name} of a lane are {str(value)[:40]!r}, not a list of whole numbers")
    return value


class Lanes:
    """The lanes that one rank serves. `next_batch` is called by one thread at a time."""

    def __init__(
        self,
        corpus: Corpus,
        tokenizer: Tokenizer,
        *,
        split: Split,
        num_lanes: int,
        rank: int,
        world_size: int,
        batch_size: int,
        seq_len: int,
    ) -> None:
        if num_lanes < 1 or num_lanes % world_size:
            raise ConfigError(
                f"a step of {num_lanes} micro-batches cannot be shared evenly by {world_size} ranks; use a number of "
                f"ranks that divides {num_lanes}, or change the total batch or the micro-batch"
            )
        self.my_lanes = range(rank, num_lanes, world_size)
        self._corpus_digest, self._older_digest = corpus.digest, corpus.older_digest
        self._num_lanes = num_lanes
        self._tokenizer = tokenizer
        self._batch_size, self._seq_len = batch_size, seq_len
        self._groups = RowGroups(corpus.train_shards if split == "train" else (corpus.val_shard,))
        self.reset()

    def reset(self) -> None:
        """Back to the first document of every lane."""
        self._lanes = {lane: Lane(self._groups, self._tokenizer, lane, self._num_lanes) for lane in self.my_lanes}

    def next_batch(self, lane: int) -> torch.Tensor:
        """The lane's next micro-batch (2, B, T) int64: inputs, and the targets one token later."""
        rows = np.empty((self._batch_size, self._seq_len + 1), dtype=np.int64)  # (B, T+1)
        self._lanes[lane].fill(rows)
        # Copied by numpy, which uses no threads: torch's would take cores from the training thread.
        return torch.from_numpy(np.stack((rows[:, :-1], rows[:, 1:])))

    def position(self, lane: int) -> Position:
        """Where a lane of this rank is, after the last batch that was taken from it."""
        return self._lanes[lane].position()

    def positions(self) -> dict[int, Position]:
        """Where every lane of this rank is."""
        return {number: lane.position() for number, lane in self._lanes.items()}

    def state(self, positions: Mapping[int, Position]) -> dict[int, dict[str, Any]]:
        """The state of every lane of this rank at certain positions.

        Together with the other ranks' it is the whole data position.
        """
        common = {"corpus_digest": self._corpus_digest, "num_lanes": self._num_lanes}
        return {number: common | place.state() for number, place in positions.items()}

    def load_state(self, states: Mapping[int, Mapping[str, Any]]) -> None:
        """Takes this rank's lanes out of the states of all lanes."""
        for number, lane in self._lanes.items():
            if number not in states:
                raise ConfigError(
                    f"the checkpoint holds no data position for lane {number} of {self._num_lanes}, only for lanes "
                    f"{sorted(states)}; resume with the total batch and micro-batch that it was written with"
                )
            state = states[number]
            _check_number("num_lanes", state["num_lanes"])
            if not isinstance(state["corpus_digest"], str):
                raise TypeError(f"corpus_digest of a lane is {str(state['corpus_digest'])[:40]!r}, not a text")
            if state["num_lanes"] != self._num_lanes:
                raise ConfigError(
                    f"the checkpoint was written with {state['num_lanes']} micro-batches per step and this run has "
                    f"{self._num_lanes}; resume with the same total batch and micro-batch"
                )
            if state["corpus_digest"] not in (self._corpus_digest, self._older_digest):
                raise ConfigError(
                    f"the checkpoint was written on another text or with another tokenizer (digest "
                    f"{state['corpus_digest'][:8]}, this one is {self._corpus_digest[:8]}); resume on the same shards"
                )
            lane.load_state(state)
