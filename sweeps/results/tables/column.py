"""A column of an exported table: its name, type, unit and meaning, which go into the Parquet field's metadata."""

from dataclasses import dataclass
from typing import Any, Literal

from sweeps.records.arrow import arrow

Kind = Literal["text", "texts", "int32", "int32s", "int64", "float64", "float64s", "bool", "utc"]

NOT_FINITE = "not_finite"  # the mark of a null that was a number


@dataclass(frozen=True)
class About:
    """How a column is called and what it means."""

    name: str
    kind: Kind
    unit: str
    meaning: str

    def field(self) -> Any:
        """The pyarrow.Field."""
        return arrow().field(self.name, arrow_type(self.kind), metadata={"unit": self.unit, "meaning": self.meaning})


def arrow_type(kind: Kind) -> Any:
    """The pyarrow.DataType of a kind; text is dictionary-encoded, times are UTC in microseconds."""
    pa = arrow()
    kinds: dict[Kind, Any] = {
        "text": pa.dictionary(pa.int32(), pa.string()),
        "texts": pa.list_(pa.string()),
        "int32": pa.int32(),
        "int32s": pa.list_(pa.int32()),
        "int64": pa.int64(),
        "float64": pa.float64(),
        "float64s": pa.list_(pa.float64()),
        "bool": pa.bool_(),
        "utc": pa.timestamp("us", tz="UTC"),
    }
    return kinds[kind]
