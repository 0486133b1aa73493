"""Ends an attempt that waits for a node which has died.

Ray notices by itself that ranks died with their node. Places that are still to be reserved there are another matter:
Ray would wait for the node to come back. So while the node is dead, what the leg has reserved or waits for is removed;
each time Ray Train's controller finds that it cannot start, until it gives up.
"""

import contextlib
import threading
from collections.abc import Generator

from sweeps.engine.cluster.nodes import is_alive
from sweeps.engine.cluster.reservations import free_reservations
from sweeps.engine.processes.beside import beside

NODE_LOOK_S = 2.0


@contextlib.contextmanager
def watching_node(node_id: str | None, tag: int) -> Generator[None]:
    """Watches the node of an attempt, whose reservation carries `tag`, in a thread; None: it is bound to no node."""
    if node_id is None:
        yield
        return
    with beside(lambda over: _watch(node_id, tag, over), name="node-watch"):
        yield


def _watch(node_id: str, tag: int, over: threading.Event) -> None:
    while not over.wait(NODE_LOOK_S):
        with contextlib.suppress(Exception):  # the next look may succeed; without a cluster nothing waits
            if not is_alive(node_id):
                free_reservations(tag)
