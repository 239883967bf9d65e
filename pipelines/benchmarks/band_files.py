"""What coding bands in files of their own together gives, on training images: archives with and without it.

    python -m pipelines.benchmarks.band_files --side 256 --compression deflate

Each band of a scene becomes a TIFF file. One line of JSON a scene: bytes that its files take in an archive, by themselves and
together, which decision 0016 rests on.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import numpy as np
import tifffile

from pipelines.benchmarks.eval_sets import centre, shared_data
from pipelines.scenes import SCENES, scene

UNRELATED = {"two places, panchromatic": [f"gray16/sat-misc/worldview-pan{i}.png" for i in (1, 2)]}


def packed(tree: Path, archive: Path, *words: str) -> int:
    """Bytes that the files of a tree take in an archive, without models."""
    command = [sys.executable, "-m", "callic_archive.cli.main", "pack", str(tree), "-o", str(archive)]
    command += ["--adapt", "none", "--learned", "always", "--no-verify", "--workers", "1", "--json", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(json.loads(done.stdout.splitlines()[-1])["stored_bytes"])


@click.command()
@click.option("--side", default=256, show_default=True, help="Side of the centre that is packed.")
@click.option("--compression", type=click.Choice(["none", "deflate", "lzw"]), default="none", show_default=True)
@click.option("--only", default="", help="Only scenes whose name holds this.")
def main(side: int, compression: str, only: str) -> None:
    """Print bytes of each scene."""
    for name, files in (SCENES | UNRELATED).items():
        if only not in name:
            continue
        image = centre(scene(shared_data() / "train", files), side)
        with tempfile.TemporaryDirectory() as folder:
            tree = Path(folder) / "scene"
            tree.mkdir()
            for number in range(image.shape[2]):
                tifffile.imwrite(
                    tree / f"B{number + 1}.tif",
                    np.ascontiguousarray(image[:, :, number]),
                    compression=None if compression == "none" else compression,
                    rowsperstrip=64,
                    metadata=None,
                )
            row = {
                "alone": packed(tree, Path(folder) / "alone.callic", "--no-bands"),
                "together": packed(tree, Path(folder) / "together.callic"),
            }
        bits = {kind: round(8 * size / image.size, 3) for kind, size in row.items()}
        print(json.dumps({"scene": name, "shape": image.shape, "bytes": row, "bits": bits}), flush=True)


if __name__ == "__main__":
    main()
