"""Why a file that claims to be an image is kept as it is: short codes, the same in every version, and what they mean.

A parser that understands a file well enough to know that it will not take it apart raises ``NotTaken``. That is no
failure: nothing is wrong with the file.
"""

from __future__ import annotations

#: Code -> what it says of a file. The index, ``list`` and ``info`` name the codes; docs/format/archive.md lists them.
REASONS = {
    "not-smaller": "understood, but takes no less as images than as it is",
    "no-pixels": "one of its format that holds no image, such as a DICOM directory or report, or a header beside its samples",
    "lossy": "coded with loss, which no codec without loss makes smaller; JPEG streams in it may become JPEG XL",
    "encoder": "coded without loss by an encoder that none at hand repeats",
    "coding": "coded in a way that is not read, such as fax codes",
    "samples": "one whose samples have a type, size or arrangement that is not read",
    "colour": "one whose colours are stored in a way that is not read, such as subsampled chroma",
    "sparse": "one with blocks of samples that were never written",
    "constant": "so uniform that next to nothing is stored of it",
    "axes": "an array with fewer than two axes",
    "header": "samples alone, but not as the header beside them says: fewer, damaged, or those of another file",
    "members": "a compressed file or an archive in which no image file lies that can be taken apart",
    "few-samples": "large, and samples are a small part of it",
    "variant": "a variant of its format that is not read: animated, with data behind its end, and the like",
    "content-only": "one of which only the content would come back, and `--fidelity bytes` was given",
    "no-reader": "of a kind that is recognised but not read, such as JPEG XL, WebP or HEIF in files of their own",
    "jpeg-kind": "a JPEG file that cannot be recoded or made smaller: damaged, lossless, four colours and progressive",
    "many-images": "of so many images that its description would be longer than an index line may be",
}


class NotTaken(Exception):
    """A file, or an image in it, that is kept as it is; ``reason`` is one of ``REASONS``."""

    def __init__(self, reason: str) -> None:
        super().__init__(REASONS[reason])
        self.reason = reason
