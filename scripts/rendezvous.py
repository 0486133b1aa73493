"""torchrun's rendezvous for one machine: `torchrun --rdzv-backend=loopback --rdzv-endpoint=127.0.0.1 ...`.

torchrun's own, that of `--standalone` too, keeps its store open on all interfaces to anyone who connects. This one
listens on 127.0.0.1. torchrun finds it by the entry point `torchrun.handlers` of this package. It needs no endpoint;
without one torchrun warns.
"""

from collections.abc import Callable
from datetime import timedelta

from torch.distributed import PrefixStore, TCPStore  # pyright: ignore[reportPrivateImportUsage]
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
)

from nanochat.machine.stores import LOOPBACK, listening_socket, store_at
from scripts.own_errors import end_launcher_quietly

_TIMEOUT_S = 600


class LoopbackRendezvous(RendezvousHandler):
    """The one node of a run. Every start of its ranks gets its own store."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._store: TCPStore | None = None

    def get_backend(self) -> str:
        """Its name on torchrun's command line."""
        return "loopback"

    @property
    def use_agent_store(self) -> bool:
        """The ranks are clients of the launcher's store."""
        return True

    def next_rendezvous(self) -> RendezvousInfo:
        """A new store, in which this node is the first of one."""
        self._store = store_at(listening_socket(LOOPBACK), timedelta(seconds=_TIMEOUT_S))
        where = RendezvousStoreInfo(LOOPBACK, self._store.port)
        return RendezvousInfo(PrefixStore(self._run_id, self._store), 0, 1, where)

    def is_closed(self) -> bool:
        """No other node could close it."""
        return False

    def set_closed(self) -> None:
        """There is nothing to be told to other nodes."""

    def num_nodes_waiting(self) -> int:
        """No other node can join."""
        return 0

    def get_run_id(self) -> str:
        """As torchrun was given it."""
        return self._run_id

    def shutdown(self) -> bool:
        """The store ends with the launcher."""
        return True


def handler() -> Callable[[RendezvousParameters], RendezvousHandler]:
    """What torchrun asks the entry point for."""
    return _create


def _create(params: RendezvousParameters) -> RendezvousHandler:
    if params.max_nodes != 1:
        raise ValueError(
            f"--rdzv-backend=loopback is for one machine, got --nnodes for {params.max_nodes}; on several machines use "
            f"--rdzv-backend=c10d, on a network where you trust everybody"
        )
    end_launcher_quietly()
    return LoopbackRendezvous(params.run_id)
