"""Stop buttons: one flag a visitor, which a run looks at after each step."""

import threading


class Stops:
    """Flags by session. Pressed between `clear` and the end of a run, Stop ends it, also one that still waits."""

    def __init__(self) -> None:
        self._pressed: set[str] = set()
        self._lock = threading.Lock()

    def press(self, session: str) -> None:
        """Ask the run of this visitor to end after its current step."""
        with self._lock:
            self._pressed.add(session)

    def clear(self, session: str) -> None:
        """Forget what was pressed before."""
        with self._lock:
            self._pressed.discard(session)

    def pressed(self, session: str) -> bool:
        """Whether the run should end."""
        return session in self._pressed
