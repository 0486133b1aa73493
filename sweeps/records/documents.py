"""The small JSON documents of an experiment: what each holds, and the one way they are written and read.

Every document carries its schema's name and version. Unknown keys are ignored, so a later version can add some; a
document that cannot be understood is reported with what is wrong with it.
"""

import dataclasses
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar, cast

from nanochat.stats import StartFacts
from sweeps.spec.checked import check_fields, moment, typed
from sweeps.spec.errors import CorruptData

AttemptEnd = Literal["completed", "stopped", "failed", "interrupted"]
TrialState = Literal["pending", "running", "interrupted", "failed", "dropped", "completed", "stopped_early"]
ExperimentState = Literal["running", "interrupted", "completed", "completed_with_failures"]
COMPLETED_STATES: tuple[TrialState, ...] = ("completed", "stopped_early")
SETTLED_STATES: tuple[TrialState, ...] = (*COMPLETED_STATES, "failed", "dropped")  # a restore leaves these alone
ENDED_STATES: tuple[ExperimentState, ...] = ("completed", "completed_with_failures")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What was launched: the plan with its resolved configs, and all that is needed to say where it came from."""

    id: str
    sweep: str
    created_utc: str
    argv: list[str]
    git_commit: str | None  # of the code that runs; None outside a checkout
    git_diff: str | None  # of uncommitted changes; None if clean or outside a checkout
    versions: dict[str, str]  # python and the packages that decide numbers
    plan: dict[str, Any]  # JSON of sweeps.spec.plan.Plan
    plan_digest: str
    settings: dict[str, Any]  # what the command line changed: preset, num_workers, ...
    imported_from: str | None = None  # the folder of logs that it was made from; it has nothing to run then


@dataclass(frozen=True, kw_only=True)
class Growth:
    """To how many blocks an experiment has grown since its launch. Replaced whenever a block is added."""

    num_blocks: int


@dataclass(frozen=True, kw_only=True)
class AttemptError:
    """What ended an attempt: the exception of the rank that failed first, or what was seen from outside."""

    type: str
    message: str
    traceback: str


@dataclass(frozen=True, kw_only=True)
class AttemptRecord:
    """One unbroken execution of a trial. Without an end it still runs, or its launcher died.

    It ends stopped on request, interrupted from outside (a worker killed, a node lost), failed by its own error.
    """

    number: int
    host: str
    pid: int
    started_utc: str
    num_workers: int
    git_commit: str | None = None  # of the code that ran it; the manifest's is that of the launch
    git_diff_digest: str | None = None  # of its uncommitted changes, clean ones too; None: not known
    versions: dict[str, str] | None = None  # python and packages of the process that opened it; None: not known
    first_step: int | None = None  # None until the trainer has said where it starts
    first_step_utc: str | None = None  # the end of its first step
    last_step_utc: str | None = None  # the end of its last step, stored when it was not cut off
    ended_utc: str | None = None
    end: AttemptEnd | None = None
    error: AttemptError | None = None
    facts: dict[str, Any] | None = None  # the trainer's StartFacts
    run_s: float | None = None  # from its start to its end by a clock that never goes back; None if it was cut off
    retry_utc: str | None = None  # when a person asked for another attempt after this failed one
    again_utc: str | None = None  # when its block moved to another node, where the leg runs again from its start
    node_id: str | None = None  # Ray's, of the node that its block is bound to; None: bound to none
    node_host: str | None = None  # the name of that node's machine

    @property
    def ran_on(self) -> str:
        """The machine that its steps ran on: the bound node's, else the driver's."""
        return self.node_host or self.host

    @property
    def node(self) -> str | None:
        """The node that its block is bound to, for people: several can be on one machine."""
        return None if self.node_id is None else f"{self.node_host or 'unknown'}/{self.node_id[:6]}"

    @property
    def has_failed_for_good(self) -> bool:
        """Whether its own error ended it and no retry was asked for."""
        return self.end == "failed" and self.retry_utc is None


@dataclass(frozen=True, kw_only=True)
class AttemptPart:
    """What one writer adds to the document of an attempt, in its own file. None: nothing."""

    facts: dict[str, Any] | None = None
    first_step: int | None = None
    first_step_utc: str | None = None
    last_step_utc: str | None = None
    ended_utc: str | None = None
    end: AttemptEnd | None = None
    error: AttemptError | None = None
    retry_utc: str | None = None
    again_utc: str | None = None


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """Written last: a trial is completed when this exists."""

    trial: str
    leg: str
    block: int
    status: Literal["completed", "stopped_early"]
    last_step: int
    num_attempts: int
    peak_mib: float
    total_time_min: float  # steps > 10 only, over all attempts
    min_val_bpb: float | None
    ended_utc: str


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a trial was run whose files were copied from another experiment at the launch."""

    experiment: str  # its id
    git_commit: str | None  # of the code that it was launched with
    copied_utc: str


@dataclass(frozen=True, kw_only=True)
class Imported:
    """A trial that was not run here but read from another trainer's log. None: no line says it."""

    file: str  # where the log was, and its contents
    sha256: str
    first_line: int  # of the run in the file, from 1
    last_line: int
    state: Literal["completed", "failed", "interrupted"]  # completed: both lines of a run's end were seen
    error: str | None  # the line that looks like the error that ended it
    num_attempts: int  # how often the log shows a start
    num_skipped_lines: int  # of the file, that look like known ones and could not be used
    command: list[str] | None  # the trainer's arguments
    why_no_config: str | None  # why nothing is known of its config; None if the command says it
    facts: dict[str, Any]  # like a trainer's StartFacts, as far as lines say so
    started_utc: str | None = None  # by the queue's own log
    ended_utc: str | None = None


@dataclass(frozen=True, kw_only=True)
class Drop:
    """A person gave a trial up: the experiment is complete without it. A retry takes that back."""

    dropped_utc: str
    undone_utc: str | None = None


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How much runs of one leg differ on one machine, measured with twin trials.

    It is stored in the experiment that measured it. An experiment that uses it keeps a copy.
    """

    experiment: str  # the id of the one that measured it
    leg: str
    measured_utc: str
    run_sd: float  # of ln(dt) of one run, from the differences of the twins inside their blocks
    floor_sd: float  # the smallest spread between runs that is believed in other experiments
    num_blocks: int  # in which both twins were measured
    window_steps: int
    num_workers: int
    host: str
    device_name: str | None
    versions: dict[str, str]  # python and the packages of the process that ran it


@dataclass(frozen=True, kw_only=True)
class StopRequest:
    """A user asked the experiment to stop after the current step."""

    reason: str
    requested_utc: str


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why no leg can be started here now, reported by a driver or a rank to the launcher."""

    reason: str
    exit_code: int  # of the launch that it ends


@dataclass(frozen=True, kw_only=True)
class BlockMove:
    """A block was bound to another node than the one that its legs had begun on."""

    block: int
    node_id: str  # Ray's
    node_host: str
    again: list[str]  # completed trials that run again there
    moved_utc: str


Document = (
    Manifest
    | Growth
    | AttemptRecord
    | AttemptPart
    | TrialResult
    | Origin
    | Imported
    | Drop
    | Calibration
    | StopRequest
    | Refusal
    | BlockMove
)
D = TypeVar(
    "D",
    Manifest,
    Growth,
    AttemptRecord,
    AttemptPart,
    TrialResult,
    Origin,
    Imported,
    Drop,
    Calibration,
    StopRequest,
    Refusal,
    BlockMove,
)

_SCHEMAS: dict[type, str] = {
    Manifest: "nanochat-sweep/manifest/1",
    Growth: "nanochat-sweep/growth/1",
    AttemptRecord: "nanochat-sweep/attempt/1",
    AttemptPart: "nanochat-sweep/attempt-part/1",
    TrialResult: "nanochat-sweep/result/1",
    Origin: "nanochat-sweep/origin/1",
    Imported: "nanochat-sweep/imported/1",
    Drop: "nanochat-sweep/drop/1",
    Calibration: "nanochat-sweep/calibration/1",
    StopRequest: "nanochat-sweep/stop-request/1",
    Refusal: "nanochat-sweep/refusal/1",
    BlockMove: "nanochat-sweep/move/1",
}


def utc_now() -> str:
    """The present moment as ISO 8601 with microseconds, in UTC."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def parse_utc(text: str) -> datetime:
    """The moment that `utc_now` wrote."""
    return moment(text)


def to_bytes(document: Document) -> bytes:
    """Readable JSON with the schema first; the same document gives the same bytes."""
    return json_bytes({"schema": _SCHEMAS[type(document)], **dataclasses.asdict(document)})


def json_bytes(value: dict[str, Any]) -> bytes:
    """Readable JSON for a file; keys keep their order. A byte of an argument that is not a text becomes an escape."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode(errors="backslashreplace")


def json_object(data: bytes, where: str) -> dict[str, Any]:
    """The object in a JSON file. Raises CorruptData, naming the file `where`."""
    try:
        value: Any = json.loads(data, parse_constant=_refused)
    except (ValueError, RecursionError) as error:
        raise CorruptData(f"{where} is damaged: it is no JSON ({error}); put back an earlier copy of it") from None
    if not isinstance(value, dict):
        raise CorruptData(f"{where} is damaged: it must hold a JSON object, not {type(value).__name__}")
    return cast("dict[str, Any]", value)


def _refused(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def from_bytes(kind: type[D], data: bytes, where: str) -> D:
    """The document in a file. Raises CorruptData, naming the file `where` and what is wrong with it."""
    values = json_object(data, where)
    wanted, seen = _SCHEMAS[kind], values.get("schema")
    if seen != wanted:
        raise CorruptData(f"{where} is no {wanted} document: its schema is {seen!r}; read it with the version it is of")
    document = typed(kind, values, where)
    if isinstance(document, AttemptRecord | AttemptPart | Imported) and document.facts is not None:
        check_fields(StartFacts, document.facts, where)
    return document
