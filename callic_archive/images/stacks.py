"""Slices of volumes and frames of films: many small ones lie below each other in one image.

A codestream of its own for each of thousands of slices costs hundreds of bytes a slice, in its header, its record and
its line of the index. A stack is an ordinary layout, a tall raster, and ``frames`` tells of how many it is made.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from callic_archive.images.layout import Layout, apart
from callic_archive.images.source import Limits

STACK_PIXELS = 1 << 20  # of a stack; larger ones save nothing more, and are slower to read one slice from
FEWEST = 8  # slices below which each is an image of its own


def stacks(count: int, height: int, width: int) -> Iterator[tuple[int, int]]:
    """(first, number) of the slices of each stack, for ``count`` slices of one size."""
    most = max(1, STACK_PIXELS // (height * width)) if count >= FEWEST else 1
    each = -(-count // -(-count // most)) if count else 1
    for first in range(0, count, each):
        yield first, min(each, count - first)


def volume(dtype: str, sizes: Sequence[int], start: int, limits: Limits, samples: int = 1) -> list[Layout]:
    """Stacks of the slices of an array at byte ``start`` whose axes have ``sizes``, the fastest first.

    Each element has ``samples`` samples side by side. Axes of length 1 count for nothing; empty where fewer than two
    axes are left, or one is empty. Raises SourceTooLarge where there are too many.
    """
    axes = [n for n in sizes if n != 1]
    if len(axes) < 2 or min(axes) < 1:
        return []
    width, height, pages = axes[0], axes[1], math.prod(axes[2:])
    split = apart(samples, int(dtype[2]))
    limits.check_images(pages * height * width // STACK_PIXELS * (samples if split else 1))
    pitch = width * samples * int(dtype[2])
    return [
        Layout(
            n * height, width, samples, dtype, n * height, width, pitch, (start + first * height * pitch,),
            split=split, frames=n,
        )
        for first, n in stacks(pages, height, width)
    ]  # fmt: skip


def _like(layout: Layout) -> Layout:
    return replace(layout, offsets=(), lengths=())


def _can(layout: Layout) -> bool:
    whole_blocks = layout.height % layout.block_rows == 0 or (layout.down == 1 and not layout.whole)
    return whole_blocks and not layout.flip and layout.frames == 1


def stacked(layouts: Sequence[Layout]) -> list[Layout]:
    """The same blocks as fewer and taller layouts: each run of equal ones in a row becomes stacks."""
    done: list[Layout] = []
    at = 0
    while at < len(layouts):
        like = _like(layouts[at])
        end = at + 1
        while end < len(layouts) and _like(layouts[end]) == like:
            end += 1
        run = layouts[at:end]
        if len(run) < FEWEST or not _can(like):
            done += run
        else:
            done += [_stack(run[i : i + n]) for i, n in stacks(len(run), like.height, like.width)]
        at = end
    return done


def _stack(run: Sequence[Layout]) -> Layout:
    first = run[0]
    planes = first.samples if first.planar else 1
    each = first.count // planes

    def joined(lists: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
        # Blocks are numbered plane by plane, so the frames of one plane follow each other.
        return tuple(v for p in range(planes) for values in lists for v in values[p * each : (p + 1) * each])

    return replace(
        first,
        height=first.height * len(run),
        block_rows=min(first.block_rows, first.height),
        offsets=joined([x.offsets for x in run]),
        lengths=joined([x.lengths for x in run]),
        frames=len(run),
    )
