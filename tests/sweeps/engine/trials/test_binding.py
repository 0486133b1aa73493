"""Which node a block gets, and which of its completed legs run again there: a truth table, and one law."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps.engine.cluster.places import Node
from sweeps.engine.trials.binding import Binding, StoredLeg, choose, is_there
from sweeps.records.documents import AttemptRecord

A, B, C = (Node(2, 0, id=id, host=f"host-{id}") for id in "abc")
ALL = {node.id: node for node in (A, B, C)}


def attempt(node: Node | None) -> AttemptRecord:
    where: dict[str, Any] = {} if node is None else {"node_id": node.id, "node_host": node.host}
    return AttemptRecord(number=0, host="launcher", pid=1, started_utc="", num_workers=2, **where)


def leg(name: str, state: str, node: Node | None = None, *, begun: bool = True) -> StoredLeg:
    last = attempt(node) if begun else None
    return StoredLeg(name=name, is_open=state == "open", is_completed=state == "completed", last=last)


def chosen(legs: list[StoredLeg], free: list[Node], dead: str = "", known: str = "abc") -> Binding | None:
    lives = {id: id not in dead for id in known}
    return choose(legs, free, lives, {id: ALL[id].host for id in known})


FRESH = leg("y", "open", begun=False)


@pytest.mark.parametrize(
    ("legs", "free", "dead", "expected"),
    [
        ([FRESH], [B, A], "", Binding(B, ())),  # any free node will do
        ([leg("x", "completed", A), FRESH], [B, A], "", Binding(A, ())),  # its own
        ([leg("x", "completed", A), FRESH], [B], "", None),  # its own lives and is not free: it waits
        ([leg("x", "completed", A), FRESH], [B], "a", Binding(B, ("x",))),  # lost: whole on another node
        ([leg("x", "failed", A), FRESH], [B], "a", Binding(B, ())),  # a failed leg has no partner to lose
        ([leg("x", "open", A), FRESH], [B, A], "", Binding(A, ())),  # an interrupted one rather stays
        ([leg("x", "open", A), FRESH], [B], "", Binding(B, ())),  # but does not wait
        ([leg("x", "completed", None), FRESH], [B], "", Binding(B, ())),  # nobody knows where it ran
        ([leg("x", "completed", begun=False), FRESH], [B], "", Binding(B, ())),  # another experiment ran it
        ([leg("x", "completed", A)], [B], "a", Binding(B, ())),  # nothing left to run, so nothing again
        ([FRESH], [], "", None),
    ],
)
def test_a_block_stays_where_its_completed_legs_ran(
    legs: list[StoredLeg], free: list[Node], dead: str, expected: Binding | None
) -> None:
    assert chosen(legs, free, dead) == expected


def test_after_the_cluster_was_started_again_the_machine_counts() -> None:
    again = Node(2, 0, id="new", host=A.host)
    legs = [leg("x", "completed", A), FRESH]
    assert choose(legs, [B, again], {"b": True, "new": True}, {"b": B.host, "new": again.host}) == Binding(again, ())
    assert choose(legs, [B], {"b": True, "new": True}, {"b": B.host, "new": again.host}) is None
    assert choose(legs, [B], {"b": True}, {"b": B.host}) == Binding(B, ("x",))


@given(
    st.lists(st.tuples(st.sampled_from(["open", "completed", "failed"]), st.sampled_from([None, A, B, C])), max_size=5),
    st.lists(st.sampled_from([A, B, C]), unique=True),
    st.sets(st.sampled_from("abc")),
)
def test_what_counts_of_a_block_ran_on_one_node(
    found: list[tuple[str, Node | None]], free: list[Node], dead: set[str]
) -> None:
    """Whatever was lost: after the block has run, its completed legs that are known to have a node share it."""
    legs = [leg(f"leg{i}", state, node) for i, (state, node) in enumerate(found)]
    usable = [node for node in free if node.id not in dead]
    binding = chosen(legs, usable, "".join(dead))
    if binding is None or not any(each.is_open for each in legs):
        return
    assert binding.node in usable
    stays = [each.last for each in legs if each.is_completed and each.was_bound and each.name not in binding.again]
    assert all(last is not None and is_there(last, binding.node, ALL) for last in stays)
