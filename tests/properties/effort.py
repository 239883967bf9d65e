"""How many examples a property gets: as many as its test says, or CALLIC_EXAMPLES times as many."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings


def examples(count: int) -> settings:
    """Settings for ``count`` examples, without a deadline: the first one compiles loops."""
    times = max(1, int(os.environ.get("CALLIC_EXAMPLES", "1")))
    quiet = [HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(max_examples=count * times, deadline=None, suppress_health_check=quiet)
