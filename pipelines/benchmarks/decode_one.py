"""Decode one codestream in a process of its own and print the SHA-256 of its samples, shape and type.

python -m pipelines.benchmarks.decode_one FILE BACKEND THREADS
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray


def fingerprint(image: NDArray[np.generic]) -> str:
    """SHA-256 over shape, type and samples in C order."""
    head = f"{image.shape} {image.dtype.str} ".encode()
    return hashlib.sha256(head + np.ascontiguousarray(image).tobytes()).hexdigest()


def main(path: str, backend: str, threads: str) -> None:
    """Decode with the shipped models."""
    from callic_archive.codec.decoder import decode_image
    from callic_archive.model.weights import ModelSet

    chosen = cast(Literal["numpy", "torch"], backend)
    image = decode_image(
        Path(path).read_bytes(), models=ModelSet.default(), backend=chosen, threads=int(threads)
    )
    print(fingerprint(image))


if __name__ == "__main__":
    main(*sys.argv[1:])
