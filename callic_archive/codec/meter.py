"""How far the codec of this process is with the image at hand, for whoever shows progress.

Tiles of one image are the only steps of the codec that take long enough to wait for. Counting them must never
slow them down or fail, so there is no lock: a count that is shown one tile late harms nobody.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Meter:
    """Tiles of the image that is being coded."""

    verb: str = ""
    done: int = 0
    total: int = 0

    def begin(self, verb: str, total: int) -> None:
        """An image of ``total`` tiles begins; ``verb`` says what becomes of them (``encoded``)."""
        self.verb, self.done, self.total = verb, 0, total

    def step(self) -> None:
        """One more tile is done."""
        self.done += 1

    def text(self) -> str:
        """In words; empty when there is nothing to wait for."""
        if self.total < 2 or self.done >= self.total:
            return ""
        return f"{self.done} of {self.total} tiles {self.verb}"


METER = Meter()
