"""What holds for all tests: no property has a deadline, as a busy machine would break it where the code does not; and signals do
what they did before, as a command that ends in this process leaves them ignored, and processes that tests start inherit that."""

import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("without deadlines", deadline=None)
settings.load_profile("without deadlines")
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # tests that run under `nohup` are about what happens without it
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    """Restore what ends runs."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        if handler is not None:  # of no one in Python
            signal.signal(number, handler)
