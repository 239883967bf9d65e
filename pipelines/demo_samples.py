"""Sample files for the demonstration: pictures that scientific packages bring along, in many formats.

Nothing is downloaded. Pictures come from scikit-image and pydicom; synthetic images say so in their names.
The tree also holds what every real folder holds: text, an empty folder, a symbolic link, a JPEG, odd names.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin
from pydicom.data import get_testdata_file
from skimage import data as pictures

#: DICOM files that lie inside the pydicom package itself: native CT and MR, and two that are compressed.
DICOM_FILES = ("CT_small.dcm", "MR_small.dcm", "MR_small_bigendian.dcm", "JPEG2000.dcm", "SC_rgb_rle.dcm")


def terrain(height: int, width: int, bands: int, seed: int = 7) -> NDArray[np.uint16]:
    """A synthetic 12-bit scene (height, width, bands): noise with a falling spectrum, bands correlated."""
    rng = np.random.default_rng(seed)
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :]
    amplitude = 1 / np.maximum(np.hypot(fy, fx), 1 / max(height, width)) ** 1.4

    def field() -> NDArray[np.float64]:
        phase = rng.uniform(0, 2 * np.pi, amplitude.shape)
        values = np.fft.irfft2(amplitude * np.exp(1j * phase), s=(height, width))
        return np.asarray(values / values.std())

    shared = field()
    planes = [1200 + 180 * band + 260 * (shared + 0.35 * field()) for band in range(bands)]
    noisy = np.stack(planes, axis=-1) + rng.normal(0, 4, (height, width, bands))
    return np.clip(np.rint(noisy), 0, 4095).astype(np.uint16)


def _png_with_text(path: Path, pixels: NDArray[np.uint8]) -> None:
    words = PngImagePlugin.PngInfo()
    words.add_text("Comment", "metadata survives")
    Image.fromarray(pixels).save(path, pnginfo=words, dpi=(300, 300))


def make_samples(root: Path) -> None:
    """Write the sample tree below ``root``, which must not exist yet. About 35 files, 1.7 MB."""
    root.mkdir(parents=True)
    folders = "photos histology/stain microscopy radiology satellite/bands notes empty/inner"
    for folder in folders.split():
        (root / folder).mkdir(parents=True)

    astronaut = pictures.astronaut()[0:192, 130:350]
    coffee = pictures.coffee()[60:220, 120:320]
    stained = pictures.immunohistochemistry()
    cells = pictures.cell()[200:392, 180:372]
    camera = pictures.camera()[60:252, 130:330]
    hubble = pictures.hubble_deep_field()[300:460, 400:600]

    photos = root / "photos"
    _png_with_text(photos / "astronaut.png", astronaut)
    _png_with_text(photos / "camera.png", camera)
    Image.fromarray(coffee).save(photos / "coffee.ppm")
    Image.fromarray(camera).save(photos / "camera.pgm")
    Image.fromarray(coffee).save(photos / "coffee.bmp")
    Image.fromarray(np.dstack([coffee, camera[:160, :200]])).save(photos / "coffee with alpha.png")
    Image.fromarray(coffee).quantize(32).save(photos / "palette.png")
    Image.fromarray(coffee[:1, :1]).save(photos / "one pixel.png")
    Image.fromarray(camera).convert("1").save(photos / "bilevel.png")
    Image.fromarray(astronaut).save(photos / "already lossy.jpg", quality=90)
    np.save(photos / "grüße-宇宙.npy", hubble)

    def tiff(name: str, pixels: NDArray[Any], **options: Any) -> None:
        photometric = "rgb" if pixels.ndim == 3 else "minisblack"
        tifffile.imwrite(root / name, pixels, photometric=photometric, **options)

    tiff("histology/stain/strips.tif", stained[100:260, 100:292], rowsperstrip=16)
    tiff("histology/stain/tiled.tif", stained[300:460, 200:392], tile=(64, 64))
    tiff("histology/stain/big.tif", stained[20:148, 300:428], bigtiff=True)
    tiff("histology/deflate.tif", stained[256:384, 20:212], compression="zlib", predictor=True)
    tiff("histology/lzw.tif", stained[256:384, 212:340], compression="lzw", predictor=True)
    tiff("microscopy/cells.tif", cells)
    tiff("microscopy/cells-packbits.tif", cells, compression="packbits")
    tiff("microscopy/cells-16bit.tif", cells.astype(np.uint16) * 257)
    tiff("microscopy/float32.tif", cells.astype(np.float32) / 255)

    for name in DICOM_FILES:
        source = get_testdata_file(name, download=False)
        if not isinstance(source, str):
            raise FileNotFoundError(f"pydicom brings no file named {name}.")
        (root / "radiology" / name).write_bytes(Path(source).read_bytes())

    scene = terrain(160, 192, 4)
    np.save(root / "satellite/synthetic-4band-uint16.npy", scene)
    for band in range(2):
        Image.fromarray(scene[:, :, band]).save(root / f"satellite/bands/synthetic-band{band}.png")
    np.save(root / "satellite/synthetic-elevation-int16.npy", scene[:, :, 0].astype(np.int16) - 1500)

    (root / "notes/readme.txt").write_text("Whatever is no image is kept as well.\n" * 40, "utf-8")
    (root / "notes/empty.txt").touch()
    (root / "notes/random.bin").write_bytes(np.random.default_rng(11).bytes(4096))
    script = root / "notes/run.sh"
    script.write_text("#!/bin/sh\necho modes survive too\n", "utf-8")
    script.chmod(0o750)
    (root / "notes/link-to-astronaut.png").symlink_to("../photos/astronaut.png")
    (root / "notes/dangling").symlink_to("nowhere")

    # Times far from now and below the second: whoever restores them cannot have made them up.
    for index, path in enumerate(sorted(root.rglob("*"))):
        stamp = 1_234_567_890_123_456_789 + index * 1_000_000_007
        os.utime(path, ns=(stamp, stamp), follow_symlinks=False)
