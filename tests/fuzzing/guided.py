"""The same targets under atheris, which keeps what reaches new code: ``python -m tests.fuzzing TARGET --guided FOLDER``.

It needs the extra ``fuzz``. Good inputs begin the corpus in FOLDER, later finds are added to it, and a finding ends the
run as a file ``TARGET-crash-...`` there. Broken copies come from the target's own mutator or from libFuzzer's, by turns.
"""

from __future__ import annotations

import hashlib
import random
import sys
from pathlib import Path
from typing import Any

CPU_SECONDS, MEGABYTES = 20, 4096  # of one input, and of the process: instrumented code is slower and larger


def guided(name: str, folder: Path, seconds: float, seed: int) -> None:
    """Fuzz one target for ``seconds``. Does not return: libFuzzer ends the process. Raises ImportError."""
    import atheris

    with atheris.instrument_imports(include=["callic_archive"]):
        from tests.fuzzing.__main__ import targets

        target = targets()[name]
    good = target.seeds()
    folder.mkdir(parents=True, exist_ok=True)
    for data in good:
        (folder / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)

    def run(data: bytes) -> None:
        target.run(data)

    def mutate(data: bytes, most: int, chance: int) -> bytes:
        rng = random.Random(chance)
        if rng.random() < 0.5:
            return bytes(atheris.Mutate(data, most))
        try:
            return bytes(target.breaks(data, rng, good))[:most]
        except Exception:  # its mutator knows how to break good input alone
            return bytes(target.breaks(rng.choice(good), rng, good))[:most]

    words: list[Any] = [
        sys.argv[0], str(folder), f"-max_total_time={max(1, int(seconds))}", f"-seed={seed + 1}", f"-timeout={CPU_SECONDS}",
        f"-rss_limit_mb={MEGABYTES}", f"-artifact_prefix={folder / name}-", f"-max_len={4 * max(map(len, good))}",
    ]  # fmt: skip
    atheris.Setup(words, run, custom_mutator=mutate, enable_python_coverage=True)
    atheris.Fuzz()
