"""What storage asks of an attempt that trains: to stop, or to end because a newer attempt has begun.

A thread looks, because a look takes as long as storage does. Training reads what the last look has found.
"""

from collections.abc import Callable


class Requests:
    """The answers of `look_up`, which returns whether a stop was requested, or raises why the attempt must end."""

    def __init__(self, look_up: Callable[[], bool]) -> None:
        self._look_up = look_up
        self._is_stop_asked, self._error = False, None
        self._is_storage_away = False

    def look(self) -> None:
        """One look. Storage that cannot be read asks for nothing, and the log says so once."""
        try:
            self._is_stop_asked = self._look_up()
            self._is_storage_away = False
        except OSError as error:
            if not self._is_storage_away:
                print(f"requests to stop cannot be read, training continues: {error}")
            self._is_storage_away = True
        except Exception as error:
            self._error: Exception | None = error

    def is_stop_asked(self) -> bool:
        """Whether the last look that could read has found a request. Raises what a look has raised."""
        if self._error is not None:
            raise self._error
        return self._is_stop_asked
