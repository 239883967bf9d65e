"""What the paper prints (CALLIC, arXiv 2412.17464), quoted beside this project's own figures.

The paper's seconds come from a GPU that its text does not name; only ratios compare.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Codec:
    """A row of the paper's table 1: bits per sample on Kodak and the number of parameters."""

    name: str
    kodak: float
    parameters: str = "-"


@dataclass(frozen=True)
class Timing:
    """A row of table 2, or of table 4: bits per sample and seconds a Kodak image."""

    bpsp: float
    encode: float
    decode: float


TABLE1 = (
    Codec("PNG", 4.35),
    Codec("JPEG 2000", 3.19),
    Codec("FLIF", 2.90),
    Codec("JPEG XL", 2.87),
    Codec("L3C", 3.26, "5M"),
    Codec("RC", 3.38, "6.9M"),
    Codec("LC-FDNet", 2.98, "23.7M"),
    Codec("DLPR", 2.86, "22.2M"),
    Codec("ArIB-BPS", 2.78, "146.6M"),
    Codec("MGCF (paper)", 2.77, "575K"),
    Codec("CALLIC (paper)", 2.54, "575K"),
)
TABLE2 = {
    "MGCF": Timing(2.77, 1.4, 1.6),
    "MGCF without CCI": Timing(2.77, 15.2, 15.4),
    "CALLIC": Timing(2.54, 9.7, 1.7),
    "CALLIC without RPFT": Timing(2.54, 12.9, 1.7),
}
#: (depth, dim, kernel) -> bits per sample on Kodak.
TABLE3 = {
    (3, 128, 7): 2.77,
    (1, 128, 7): 2.84,
    (5, 128, 7): 2.73,
    (3, 64, 7): 2.82,
    (3, 192, 7): 2.74,
    (3, 256, 7): 2.72,
    (3, 128, 5): 2.82,
    (3, 128, 9): 2.77,
    (3, 128, 11): 2.76,
}
TABLE4 = {"gate": Timing(2.77, 1.4, 1.6), "attention": Timing(2.78, 7.6, 7.8)}
#: Figure 3's points that the text gives; the steps of the middle one are lost in it.
FIGURE3_TEXT = "The paper's text gives 2.77 without adaptation, 2.62 where encoding takes 3.2 s, and 2.54 with all steps (9.7 s)."
#: Figure 4's points that the text gives: (bits per sample, seconds of encoding or None).
FIGURE4: dict[str, tuple[float, float | None]] = {
    "default": (2.537, 9.7),
    "all": (2.535, 12.9),
    "no depth-wise": (2.551, None),
}
