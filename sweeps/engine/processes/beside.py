"""A thread that works beside its caller, and ends with it."""

import contextlib
import threading
from collections.abc import Callable, Generator


@contextlib.contextmanager
def beside(
    work: Callable[[threading.Event], object], *, name: str, kind: type[threading.Thread] = threading.Thread
) -> Generator[None]:
    """Runs `work` in a thread while the caller is inside. Leaving sets the event that `work` has, and waits for it."""
    over = threading.Event()
    thread = kind(target=work, args=(over,), name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
