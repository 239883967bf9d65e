"""Records that grow one configuration at a time, so that an interrupted measurement goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import click

from pipelines.benchmarks import record
from pipelines.benchmarks.record import context, say


class Kept:
    """The figures of one part, by configuration, all measured with the same settings.

    Raises ``click.UsageError`` where the record holds figures of other settings: they cannot stand beside
    new ones, and an hour of measurements is not thrown away unasked.
    """

    def __init__(self, name: str, settings: Mapping[str, Any], *, again: bool = False) -> None:
        self.name, self.settings = name, dict(settings)
        found = {} if again else record.load(name)
        if found.get("result") and found["settings"] != self.settings:
            differing = sorted(
                key
                for key in {*found["settings"], *self.settings}
                if found["settings"].get(key) != self.settings.get(key)
            )
            raise click.UsageError(
                f"{record.result_path(name).name} holds figures of another {', '.join(differing)}; "
                "give the same settings, or --again to measure all of it anew"
            )
        self.result: dict[str, Any] = found.get("result", {})

    def measure(self, label: str, function: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Figures of a configuration: those recorded, or measured now and recorded at once."""
        if label in self.result:
            say(f"{label}: recorded before")
        else:
            say(label)
            self.result[label] = {**function(), "context": context()}
            record.write(self.name, self.record())
        found: dict[str, Any] = self.result[label]
        return found

    def record(self) -> dict[str, Any]:
        """The whole record, as it lies on disk."""
        return {"benchmark": self.name, "settings": self.settings, **context(), "result": self.result}
