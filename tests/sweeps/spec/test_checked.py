"""What a stored value must be to become a field, and the sentence about one that is not."""

import math
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps.spec.checked import check_fields, moment, plain_name, printable, typed
from sweeps.spec.errors import CorruptData


@dataclass(frozen=True, kw_only=True)
class Inner:
    names: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Outer:
    step: int
    loss: float
    name: str
    started_utc: str
    is_held: bool
    end: Literal["completed", "failed"]
    pid: int | None = None
    inner: Inner | None = None
    versions: dict[str, str] = field(default_factory=dict[str, str])
    anything: Any = None


GOOD: dict[str, Any] = {
    "step": 3,
    "loss": 2,
    "name": "a",
    "started_utc": "2026-01-01T00:00:00Z",
    "is_held": True,
    "end": "failed",
}


def test_what_fits_becomes_the_dataclass_and_unknown_keys_are_ignored() -> None:
    read = typed(Outer, {**GOOD, "inner": {"names": ["x", "y"], "new": 1}, "later": []}, "f.json")
    assert read == Outer(**{**GOOD, "loss": 2.0, "inner": Inner(names=("x", "y"))})
    assert type(read.loss) is float


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("step", -1, "step must be between 0 and 2147483647, got -1"),
        ("step", 10**30, "step must be between 0 and 2147483647, got a number of 100 bits"),
        ("step", True, "step must be a whole number, got True"),
        ("step", 1.0, "step must be a whole number, got 1.0"),
        ("step", "1", "step must be a whole number, got '1'"),
        ("pid", 0, "pid must be between 1 and"),
        ("loss", 10**400, "loss must be a finite number, got a number of 1329 bits"),
        ("loss", math.inf, "loss must be a finite number, got inf"),
        ("loss", None, "loss must be a finite number, got None"),
        ("name", 5, "name must be a text, got 5"),
        ("name", "x" * 0 or [], "name must be a text, got list"),
        ("started_utc", "yesterday", "started_utc must be a moment like 2026-01-31T12:00:00Z, got 'yesterday'"),
        ("started_utc", "2026-01-01", "started_utc must be a moment"),
        ("started_utc", "0001-01-01T00:00:00+23:59", "started_utc must be a moment"),
        ("is_held", 1, "is_held must be true or false, got 1"),
        ("end", "stopped", "end must be one of completed, failed, got 'stopped'"),
        ("end", ["failed"], "end must be one of completed, failed, got list"),
        ("inner", {"names": ["x", 1]}, "names must be a text, got 1"),
        ("inner", {}, "it lacks names"),
        ("inner", [], "inner must be Inner, got list"),
        ("versions", {"torch": 2}, "versions.torch must be a text, got 2"),
        ("name", "\x1b[2J" * 2, None),
    ],
)
def test_what_does_not_fit_is_damage_by_file_and_field(name: str, value: Any, told: str | None) -> None:
    if told is None:
        assert typed(Outer, {**GOOD, name: value}, "f.json").name == value  # its medium escapes it, see cli/console.py
        return
    with pytest.raises(CorruptData) as caught:
        typed(Outer, {**GOOD, name: value}, "f.json")
    assert str(caught.value).startswith(f"f.json is damaged: {told}")


def test_a_needed_field_that_is_missing_is_damage() -> None:
    with pytest.raises(CorruptData, match="it lacks step, end"):
        typed(Outer, {k: v for k, v in GOOD.items() if k not in ("step", "end")}, "f.json")
    with pytest.raises(CorruptData, match="it must hold a JSON object, not list"):
        typed(Outer, [], "f.json")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(sorted({*GOOD, "pid", "inner", "versions", "anything"})), json_values))
def test_whatever_is_stored_is_read_or_is_damage(changes: dict[str, Any]) -> None:
    try:
        read = typed(Outer, {**GOOD, **changes}, "f.json")
    except CorruptData:
        return
    assert type(read.step) is int
    assert math.isfinite(read.loss)
    assert moment(read.started_utc).tzinfo is UTC
    read.name.encode()


def test_fields_that_are_there_are_checked_without_the_others() -> None:
    check_fields(Outer, {"step": 1, "unknown": object()}, "f.json")
    check_fields(Outer, {"step": None}, "f.json")
    with pytest.raises(CorruptData, match=r"f\.json is damaged: step must be"):
        check_fields(Outer, {"step": "1"}, "f.json")


@pytest.mark.parametrize("name", ["../x", "a/b", "..", ".hidden", "", "x" * 201, "a\nb", "a b", "/etc", "é"])
def test_a_name_that_leads_elsewhere_is_damage(name: str) -> None:
    assert plain_name("static_cap1p25-b1", "trial") == "static_cap1p25-b1"
    with pytest.raises(CorruptData, match="cannot name a folder"):
        plain_name(name, "trial")


def test_moments_are_in_utc_and_texts_can_be_encoded() -> None:
    assert moment("2026-01-01T12:00:00+02:00") == datetime(2026, 1, 1, 10, tzinfo=UTC)
    assert printable("a\ud800b é 😀") == "a\ufffdb é 😀"
