"""One launch of one sweep into one storage folder: the only memory that survives a kill.

All paths inside are relative, so the folder can be moved. The manifest is written once, by exclusive creation, and says
everything that will be run; the rest says how far it is. State is never stored, it follows from what is there: a trial
is completed when its result exists, it runs only while the experiment's owner lives.
"""

import contextlib
import errno
import os
from collections.abc import Iterable
from functools import cached_property
from typing import Any

from nanochat.config import digest
from sweeps.records.attempts import owner_number_of
from sweeps.records.conditional_puts import check_conditional_puts
from sweeps.records.documents import (
    COMPLETED_STATES,
    SETTLED_STATES,
    BlockMove,
    ExperimentState,
    Growth,
    Manifest,
    Refusal,
    StopRequest,
    TrialState,
    from_bytes,
    to_bytes,
    utc_now,
)
from sweeps.records.home import typed_name
from sweeps.records.lock import Lock, current_owner, watched_owner
from sweeps.records.owner import Owner
from sweeps.records.set_aside import set_aside_damaged
from sweeps.records.store import Store
from sweeps.records.stored import stored_document
from sweeps.records.trial import TrialRecord
from sweeps.spec.checked import plain_name
from sweeps.spec.errors import CorruptData, Locked, StorageFailed, SweepError, UsageError
from sweeps.spec.plan import Plan, grown, plan_from_json

_GROWTH = "blocks.json"
_WILL_NOT_PASS = (errno.EACCES, errno.EPERM, errno.EINVAL, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG)
_STOP = "requests/stop.json"
_REFUSAL = "requests/refusal.json"
_MOVES = "moves"


class Experiment:
    """An experiment in storage. Make it by `create` or `open`."""

    def __init__(self, store: Store, manifest: Manifest) -> None:
        self.store, self.manifest = store, manifest
        self._lock: Lock | None = None
        self.owner_number = 0  # of the launch that this object serves; 0: of none

    @classmethod
    def create(cls, store_root: str, id: str, manifest: Manifest) -> "Experiment":
        """A new folder `store_root/id` with its manifest. Raises UsageError or Locked where something is there already.

        An empty folder is taken.
        """
        store = Store(f"{store_root.rstrip('/')}/{id}")
        try:
            _check_is_free(store)
            _create_manifest(store, manifest)
        except FileExistsError:
            raise _already_there(store, id) from None
        except OSError as error:
            _remove_if_empty(store)
            raise UsageError(
                f"storage {store_root} cannot be written: {error}; choose another place with --storage"
            ) from None
        return cls(store, manifest)

    @classmethod
    def open(cls, uri: str) -> "Experiment":
        """The experiment in a folder. Raises UsageError if it is none, CorruptData if its manifest is damaged,
        StorageFailed if storage does not answer."""
        store = Store(uri)
        try:
            data = store.read("manifest.json")
        except (FileNotFoundError, NotADirectoryError) as error:
            raise UsageError(
                f"{uri} is no experiment: it holds no manifest.json; give an experiment's id, its folder or its address"
            ) from error
        except OSError as error:
            kind = UsageError if error.errno in _WILL_NOT_PASS else StorageFailed
            raise kind(f"{uri} cannot be read: {error}") from error
        manifest = from_bytes(Manifest, data, store.uri_of("manifest.json"))
        plain_name(manifest.id, f"{store.uri_of('manifest.json')} is damaged: id")
        if _digest(manifest.plan) != manifest.plan_digest:
            raise CorruptData(
                f"{store.uri_of('manifest.json')} is damaged: its plan does not have the digest "
                f"{manifest.plan_digest[:12]} that was stored with it; put back an earlier copy of it"
            )
        return cls(store, manifest)

    @property
    def id(self) -> str:
        """The experiment's name, as its manifest says; the folder can have been renamed."""
        return self.manifest.id

    @property
    def uri(self) -> str:
        """Where the experiment lies now."""
        return self.store.uri

    @cached_property
    def plan(self) -> Plan:
        """The legs and trials with their configs, in order, with the blocks that were added to the manifest's."""
        try:
            planned = plan_from_json(self.manifest.plan)
            return grown(planned, max(planned.num_blocks, self._stored_growth()))
        except (CorruptData, SweepError) as error:
            raise CorruptData(
                f"{self.store.uri_of('manifest.json')}: {error}; open it with the version that wrote it"
            ) from None

    def grow(self, num_blocks: int) -> None:
        """Adds blocks, up to `num_blocks` in all; nothing that is there changes. Raises SweepError past the maximum,
        Locked if another launch has taken over.

        A leg that was dropped in the last block stays dropped in the new ones.
        """
        self._confirm_ownership()
        last = [trial for trial in self.plan.trials if trial.block == self.plan.num_blocks]
        dropped = {trial.leg.name for trial in last if self._record(trial.name).is_dropped()}
        for trial in grown(self.plan, num_blocks).trials:
            if trial.block > self.plan.num_blocks and trial.leg.name in dropped:
                self._record(trial.name).drop()
        self.store.write(_GROWTH, to_bytes(Growth(num_blocks=num_blocks)))
        self.__dict__.pop("plan", None)

    def has_grown(self) -> bool:
        """True if blocks were added since the plan was read; it is read again then."""
        if self._stored_growth() <= self.plan.num_blocks:
            return False
        self.__dict__.pop("plan", None)
        return True

    def _stored_growth(self) -> int:
        """To how many blocks the plan has grown; 0 if it has not."""
        try:
            data = self.store.read(_GROWTH)
        except (FileNotFoundError, NotADirectoryError):
            return 0
        return from_bytes(Growth, data, self.store.uri_of(_GROWTH)).num_blocks

    def trials(self) -> list[TrialRecord]:
        """Every trial of the plan, in order, started or not."""
        return [self._record(trial.name) for trial in self.plan.trials]

    def trial(self, name: str) -> TrialRecord:
        """One trial of the plan by its name."""
        if name not in {trial.name for trial in self.plan.trials}:
            raise UsageError(f"experiment {self.id} has no trial {name!r}; `nanochat-sweep status` lists them")
        return self._record(name)

    def lock(self, owner: Owner | None = None) -> None:
        """Makes this process (or `owner`) the one that runs the experiment. Raises Locked while another lives."""
        lock = Lock(self.store, owner or Owner.this_process())
        lock.acquire()
        self._lock = lock
        self.owner_number = max(lock.number, self._newest_attempts_owner()) if lock.number == 1 else lock.number

    def _newest_attempts_owner(self) -> int:
        """By the attempts of trials without a result. Above 1 at a first lock if a person has deleted `lock/`."""
        started = set(self.store.list("trials"))
        numbers = [
            number
            for trial in self.trials()
            if trial.name in started and not self.store.exists(trial.folders.result)
            for number in trial.attempt_numbers()
        ]
        return owner_number_of(max(numbers, default=0))

    def act_for(self, owner_number: int) -> None:
        """Makes this object a part of the launch that is the owner of that number: its requests are that launch's."""
        self.owner_number = owner_number

    def act_beside(self, launch: "Experiment") -> None:
        """As `act_for`, in the launch's own process: what needs its lease renews it here too."""
        self.owner_number, self._lock = launch.owner_number, launch._lock

    def unlock(self) -> None:
        """Gives the experiment up; does nothing where `lock` was not called."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def keep_locked(self) -> None:
        """Writes no more that this process lives: for a folder that is about to go, lock and all."""
        if self._lock is not None:
            self._lock.fall_silent()

    def ownership_lost(self) -> bool:
        """Whether another can have taken over since `lock`, because storage has not been reached for too long."""
        return self._lock is not None and self._lock.is_lost()

    def _confirm_ownership(self) -> None:
        """Before what a later owner could not undo. Raises Locked if another has taken over since `lock`."""
        if self._lock is None:
            return
        self._lock.beat()
        if self._lock.is_replaced:
            raise Locked(f"another launch has taken over {self.uri}, because this one was silent for a minute")

    def has_another_owner(self) -> bool:
        """Whether another has taken over since `lock`."""
        return self._lock is not None and self._lock.is_replaced

    def owner(self, *, certain: bool = False) -> Owner | None:
        """Who runs the experiment now; None if no launch does or the last owner died.

        An owner on another host is guessed at by its recorded time at the first look. `certain` watches instead, which
        takes up to a minute.
        """
        return watched_owner(self.store) if certain else current_owner(self.store)

    def request_stop(self, reason: str) -> None:
        """Asks the owner of the experiment to stop after the current step and checkpoint. An owner asks itself."""
        self.store.write(self._own(_STOP), to_bytes(StopRequest(reason=reason, requested_utc=utc_now())))

    def stop_requested(self) -> str | None:
        """The reason of a pending stop request."""
        for path in dict.fromkeys((self._own(_STOP), _STOP)):
            request = stored_document(self.store, StopRequest, path)
            if request is not None:
                return request.reason
        return None

    def _own(self, path: str) -> str:
        """Where a launch has what another one's processes must neither hear nor replace."""
        folder, _, name = path.partition("/")
        return f"{folder}/o{self.owner_number:06d}-{name}" if self.owner_number else path

    def refuse(self, reason: str, exit_code: int) -> None:
        """Says, for the owner to read, why no leg can be started here now, and how the launch ends of it."""
        self.store.write(self._own(_REFUSAL), to_bytes(Refusal(reason=reason, exit_code=exit_code)))

    def refusal(self) -> Refusal | None:
        """Why a leg was not started."""
        return stored_document(self.store, Refusal, self._own(_REFUSAL))

    def refuse_on_node(self, node_id: str, reason: str, exit_code: int) -> None:
        """Says, for the owner to read, why no leg can be started on a node; on others it may."""
        self.store.write(self._own(_refusal_of(node_id)), to_bytes(Refusal(reason=reason, exit_code=exit_code)))

    def refusal_on_node(self, node_id: str) -> Refusal | None:
        """Why a leg was not started on a node."""
        return stored_document(self.store, Refusal, self._own(_refusal_of(node_id)))

    def clear_requests(self) -> None:
        """Forgets stop requests and refusals; for a new owner to call before it starts."""
        for name in self.store.list("requests"):
            self.store.delete(f"requests/{name}")

    def move(self, move: BlockMove) -> None:
        """Notes that a block is bound to another node, and has its completed trials that are named run again. Raises
        Locked if another launch has taken over.

        The note comes first: who reads storage meanwhile looks again at what was settled.
        """
        self._confirm_ownership()
        self.store.create(f"{_MOVES}/{self.num_moves():06d}.json", to_bytes(move))
        for name in move.again:
            self._record(name).begin_again()

    def num_moves(self) -> int:
        """How often a block was bound to another node."""
        return len(self.store.list(_MOVES))

    def moves(self) -> list[BlockMove]:
        """The moves of blocks, oldest first."""
        paths = [f"{_MOVES}/{name}" for name in sorted(self.store.list(_MOVES)) if name.endswith(".json")]
        return [from_bytes(BlockMove, self.store.read(path), self.store.uri_of(path)) for path in paths]

    def trial_states(self) -> dict[str, TrialState]:
        """The state of each trial by name, in plan order. One with a damaged document is interrupted: it has no end."""
        return {trial.name: self._state_or_damage(trial)[0] for trial in self.trials()}

    def set_aside_damaged(self) -> list[str]:
        """Moves documents of trials that are no JSON aside; one sentence each. For the owner to call."""
        return [sentence for trial in self.plan.trials for sentence in set_aside_damaged(self.store, trial.name)]

    def damage(self) -> list[str]:
        """What is wrong with documents of trials that cannot be read, one sentence each."""
        return self.state_and_damage()[1]

    def state_and_damage(self) -> tuple[ExperimentState, list[str]]:
        """How far the experiment is, and what is wrong with documents of trials that cannot be read."""
        seen = [self._state_or_damage(trial) for trial in self.trials()]
        state = experiment_state((state for state, _ in seen), owner_lives=self.owner() is not None)
        return state, [damage for _, damage in seen if damage]

    @staticmethod
    def _state_or_damage(trial: TrialRecord) -> tuple[TrialState, str | None]:
        try:
            return trial.state(), None
        except CorruptData as error:
            return "interrupted", str(error)

    def state(self) -> ExperimentState:
        """How far the experiment is."""
        return experiment_state(self.trial_states().values(), owner_lives=self.owner() is not None)

    def _record(self, name: str) -> TrialRecord:
        return TrialRecord(self.store, name, owner_lives=lambda: self.owner() is not None)


def _refusal_of(node_id: str) -> str:
    return f"requests/refusal-{node_id}.json"


def _digest(plan: dict[str, Any]) -> str | None:
    try:
        return digest(plan)
    except (ValueError, RecursionError):  # half a surrogate pair, or deeper than any plan
        return None


def experiment_state(trials: Iterable[TrialState], *, owner_lives: bool) -> ExperimentState:
    """Done when every trial is; before that, running exactly while it has an owner."""
    states = set(trials)
    if states <= {*COMPLETED_STATES, "dropped"}:
        return "completed"
    if states <= set(SETTLED_STATES):
        return "completed_with_failures"
    return "running" if owner_lives else "interrupted"


def _check_is_free(store: Store) -> None:
    """Raises UsageError for a folder with other files in it, which would become part of the experiment."""
    held = store.everything()
    strange = [name for name in held if name != "lock"]  # which launches that race for a name leave there
    if strange and "manifest.json" not in held:
        raise UsageError(
            f"{store.uri} is no experiment and not empty: it holds {', '.join(strange[:3])}"
            f"{', ...' if strange[3:] else ''}; choose another --name"
        )


def _create_manifest(store: Store, manifest: Manifest) -> None:
    """Raises FileExistsError, and UsageError for a bucket whose server lacks conditional puts."""
    if not store.is_local:
        check_conditional_puts(store)
    store.create("manifest.json", to_bytes(manifest))


def _already_there(store: Store, id: str) -> Exception:
    owner = current_owner(store)
    if owner is not None:
        return Locked(
            f"experiment {id} is being run by process {owner.pid} on {owner.host}; "
            "wait until it ends, or choose another --name"
        )
    return UsageError(
        f"experiment {id} exists already in {store.uri}; "
        f"continue it with `nanochat-sweep restore {typed_name(store.uri)}`, or choose another --name"
    )


def _remove_if_empty(store: Store) -> None:
    folder = store.local_path()
    if folder is not None:
        with contextlib.suppress(OSError):
            os.rmdir(folder)
