"""One stored document, changed in one place: what a bad disk, another version or another user could leave there.

Pure: bytes and a random generator give bytes and a sentence. JSON is written here by hand, because most of the values
are such that no writer makes them: numbers without bounds, NaN, a key twice, a depth without end.
"""

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Path = tuple[str | int, ...]  # keys and places from a document's root to a value


@dataclass(frozen=True)
class Raw:
    """JSON, or what claims to be, as it will be in the file."""

    text: str


def palette(outside: str, pids: tuple[int, ...]) -> list[Any]:
    """Values for any field. `outside` is a path that nothing may touch, `pids` are processes that must live on."""
    numbers = [0, -1, 1, 2, 3, 7, 1000, 2**31 - 1, 2**31, 2**53, 2**63 - 1, 2**63, 2**64, -(2**63), 10**9, 10**30]
    floats = [0.1, -0.5, 1.5, 1e-320, 1e300, -1e308]
    raw = ["1e400", "-1e400", "NaN", "Infinity", "-Infinity", "1" + "0" * 400, "-1" + "0" * 400, "9" * 5000, "-0", "00"]
    times = ["2099-01-01T00:00:00.000000Z", "yesterday", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z", "1970-01-01"]
    times += ["2026-01-01T00:00:00+23:59", "2026-13-45T99:99:99Z", "2026-01-01 00:00:00", "2199-12-31T23:59:59-23:59"]
    names = ["..", ".", "/", "../../outside/secret", f"../../../../..{outside}", outside, f"{outside}/secret", "a/b"]
    names += ["owner-999999", "a999999999", "step_99999999999999999999", "trials", "manifest.json", "-b1", "a" * 300]
    texts = [
        "",
        " ",
        "x",
        "NaN",
        "Infinity",
        "1",
        "null",
        "true",
        "None",
        "nan",
        "{}",
        "{0.__class__}",
        "%s%n",
        "$HOME",
    ]
    acting = [
        "\x1b[2J\x1b]0;owned\x07",
        "\u202eevil",
        "\u2066a\u2069",
        "\x00",
        "a\nb\r\nc",
        "\x9b31m",
        "\ud800",
        "\ufeff",
    ]
    acting += [
        "<script>alert(1)</script>",
        "|a|b|\n|-|-|",
        "`x`",
        "[a](javascript:x)",
        "&lt;",
        "]]>",
        "=1+1",
        "\t@SUM(A1)",
    ]
    nested = [Raw("[" * depth + "]" * depth) for depth in (3, 500, 2000, 100_000)]
    nested += [Raw('{"a":' * depth + "1" + "}" * depth) for depth in (500, 20_000)]
    kinds: list[Any] = [None, True, False, [], {}, [[]], [None], {"": None}, {"a": {"b": [1]}}, [1, 2, 3], ["a"], [{}]]
    many: list[Any] = [list(range(2000)), "x" * 100_000, {str(i): i for i in range(2000)}]
    return [
        *numbers,
        *floats,
        *map(Raw, raw),
        *times,
        *names,
        *texts,
        *acting,
        *nested,
        *kinds,
        *many,
        *pids,
        *map(str, pids),
    ]


def paths_of(value: Any, at: Path = ()) -> Iterator[Path]:
    """Every place in a document, its root too."""
    yield at
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in pairs:
        yield from paths_of(item, (*at, key))


def written(value: Any) -> str:
    """JSON with raw parts; an object is a dict or, with repeated keys, a list of pairs in a `Pairs`."""
    if isinstance(value, Raw):
        return value.text
    if isinstance(value, Pairs):
        return "{" + ",".join(f"{json.dumps(key)}:{written(item)}" for key, item in value.items) + "}"
    if isinstance(value, dict):
        return written(Pairs(list(value.items())))
    if isinstance(value, list):
        return "[" + ",".join(map(written, value)) + "]"
    return json.dumps(value)


@dataclass(frozen=True)
class Pairs:
    """An object as its keys come, some of them twice."""

    items: list[tuple[str, Any]]


def changed_field(document: Any, values: list[Any], rng: random.Random) -> tuple[Any, str]:
    """The document with one field changed, and which. What is left is shared with the original."""
    path = rng.choice(list(paths_of(document)))
    where = "/".join(map(str, path)) or "all of it"
    how = rng.choice(("replaced",) * 6 + ("left out", "twice", "reshaped"))
    if how == "left out" and path:
        return _put(document, path[:-1], lambda inside: _cut(inside, path[-1])), f"{where} left out"
    if how == "twice" and path:
        other = rng.choice(values)
        return _put(document, path[:-1], lambda inside: _twice(inside, path[-1], other, rng)), f"{where} twice"
    if how == "reshaped":
        new, shape = _reshaped(_at(document, path), values, rng)
        return _put(document, path, lambda _: new), f"{where} {shape}"
    value = rng.choice(values)
    return _put(document, path, lambda _: value), f"{where} = {_shown(value)}"


def changed_bytes(data: bytes, others: list[bytes], rng: random.Random) -> tuple[bytes, str]:
    """The bytes of a file as a crash, a bad disk or a mistake leaves them."""
    place = rng.randrange(len(data) + 1)
    match rng.randrange(11):
        case 0 | 1 | 2:
            return data[:place], f"cut at byte {place}"
        case 3:
            return b"", "empty"
        case 4:
            end = min(len(data), place + rng.choice([1, 8, 512]))
            return data[:place] + bytes(end - place) + data[end:], f"zeros at byte {place}"
        case 5 | 6:
            flipped = bytearray(data or b"x")
            flipped[place % len(flipped)] ^= 1 << rng.randrange(8)
            return bytes(flipped), f"a bit flipped at byte {place}"
        case 7:
            return data[:place] + rng.randbytes(rng.choice([1, 3, 40])) + data[place:], f"noise at byte {place}"
        case 8:
            return rng.choice(
                [b"\xef\xbb\xbf" + data, data + data, b" " * 10_000 + data, data + b"\x00" * 512]
            ), "longer"
        case 9:
            return rng.choice(
                [b"\xff\xfe\x00", b"\x80\x04K\x01.", b"PK\x03\x04", b"[" * 100_000, b"null", b"[]", b"{}"]
            ), "other"
        case _:
            return rng.choice(others), "another file of the experiment"


def _shown(value: Any) -> str:
    try:
        return written(value)[:60]
    except TypeError:  # no value of JSON
        return repr(value)[:60]


def _reshaped(value: Any, values: list[Any], rng: random.Random) -> tuple[Any, str]:
    """The value in another shape, or with something more in it."""
    key = rng.choice(["__class__", "../x", "\x1b[2J", "k" * 5000, "schema", "pid", ""])
    if isinstance(value, dict) and rng.random() < 0.7:
        return {**value, key: rng.choice(values)}, f"with {key[:20]!r}"
    if isinstance(value, list) and rng.random() < 0.7:
        return [*value, rng.choice(values)] if rng.random() < 0.5 else [*value, *value], "longer"
    return rng.choice([[value], {"a": value}, str(value)[:1000], [value, value]]), "in another shape"


def _at(document: Any, path: Path) -> Any:
    for key in path:
        document = document[key]
    return document


def _put(document: Any, path: Path, change: Callable[[Any], Any]) -> Any:
    if path == ():
        return change(document)
    key, rest = path[0], path[1:]
    if isinstance(document, dict):
        return {**document, key: _put(document[key], rest, change)}
    return [_put(item, rest, change) if place == key else item for place, item in enumerate(document)]


def _cut(inside: Any, key: str | int) -> Any:
    if isinstance(inside, dict):
        return {name: item for name, item in inside.items() if name != key}
    return [item for place, item in enumerate(inside) if place != key]


def _twice(inside: Any, key: str | int, other: Any, rng: random.Random) -> Any:
    if isinstance(inside, list):
        return [*inside, inside[int(key)]]
    pairs = [(name, item) for name, item in inside.items()]
    pairs.insert(rng.randrange(len(pairs) + 1), (str(key), other))
    return Pairs(pairs)
