"""What the headers of a frame's code say, alike for JPEG-LS and JPEG 2000: its size, and what an encoder was told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

Choices = TypeVar("Choices")


@dataclass(frozen=True)
class Header(Generic[Choices]):
    """Size of the frame, what an encoder is told to repeat its code, and where the bytes behind the headers begin."""

    height: int
    width: int
    samples: int
    choices: Choices
    begin: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C) of the samples."""
        return self.height, self.width, self.samples
