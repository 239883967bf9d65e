"""A part of an archive's files, the same for everyone who names it, so that all parts together are all files."""

from __future__ import annotations

import datetime
import hashlib
import os
import re
from dataclasses import dataclass

from callic_archive.errors import UsageError

MOST_PARTS = 10_000


@dataclass(frozen=True)
class Subset:
    """Part ``number`` (from 1) of ``count`` parts of about equal number of files."""

    number: int
    count: int

    def __contains__(self, name: str) -> bool:
        digest = hashlib.sha256(os.fsencode(name)).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


def parse_subset(text: str, today: datetime.date) -> Subset:
    """``N/M``: part N of M. ``P%``: about P percent, each day the next part, so that none is left out for long.

    Raises UsageError.
    """
    if found := re.fullmatch(r"([0-9]{1,5})/([0-9]{1,5})", text):
        number, count = int(found[1]), int(found[2])
        if 1 <= number <= count <= MOST_PARTS:
            return Subset(number, count)
    elif found := re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,2})?)%", text):
        percent = float(found[1])
        if 100 / MOST_PARTS <= percent <= 100:
            count = max(1, round(100 / percent))
            return Subset(today.toordinal() % count + 1, count)
    raise UsageError(f"{text!r} is no part of an archive; write 1/7 for the first of seven, or 5%")
