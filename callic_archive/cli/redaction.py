"""What ``--redact-paths`` shows in the place of a path, and how paths are found in messages that were made elsewhere.

A message is text by the time it gets here. So what may be a path of the user is looked for in it: the values of the
command's own options and arguments, the folders that lead to them, and the last part of each alone, since programs name
files by that too. Only whole words count: a source called ``one`` leaves ``alone`` as it is.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b

# In a path, or at the beginning of a message, these may be names; anywhere else they are words of the message itself.
_WORDS_OF_MESSAGES = (
    "a all an and any are as at be both but by can do each file files find folder for from had has have he here if image"
    " images in into is it its left less list look made make may model more most my name no none not now of off on once"
    " one only or other out own pack path paths same so than that the them then there this to too two up use was way"
    " what when where which who why will with you"
)
_WORDS = frozenset(_WORDS_OF_MESSAGES.split())
_REST = r"""(?P<rest>/(?:[^\s'",;:()\[\]]|:(?!\s|$))*)?"""  # of a path that begins with what is looked for


class Redaction:
    """Tokens in the place of paths: the same for the same path while this object lives, others in the next run."""

    def __init__(self) -> None:
        self._salt = secrets.token_bytes(16)
        self._hidden: dict[str, _Form] = {}
        self._pattern: re.Pattern[str] | None = None

    def token(self, path: str | os.PathLike[str]) -> str:
        """What is shown for a path: its suffix stays, where it is one."""
        path = os.fspath(path)
        digest = blake2b(os.fsencode(path), key=self._salt, digest_size=5).hexdigest()
        suffix = os.path.splitext(path)[1]
        return f"path-{digest}{suffix if suffix.isascii() and suffix[1:].isalnum() and len(suffix) <= 5 else ''}"

    def hide(self, paths: Iterable[str | os.PathLike[str]]) -> None:
        """Replace these paths, from now on, wherever a message holds them."""
        for path in paths:
            self._hidden = _forms(os.fspath(path)) | self._hidden
        self._pattern = None

    def clean(self, message: str, paths: Iterable[str] = ()) -> str:
        """The message without hidden paths, and without ``paths``, which are known to be in it."""
        if self._pattern is None:
            self._pattern = _pattern(self._hidden)
        found = [(forms, _pattern(forms)) for forms in map(_forms, sorted(paths, key=len, reverse=True))]
        pieces = [message]  # what stands at odd places is a token
        for forms, pattern in [*found, (self._hidden, self._pattern)]:
            pieces = [p for n, piece in enumerate(pieces) for p in ([piece] if n % 2 else self._cut(piece, forms, pattern))]
        return "".join(pieces)

    def _cut(self, text: str, forms: Mapping[str, _Form], pattern: re.Pattern[str]) -> list[str]:
        pieces, begin = [], 0
        for match in pattern.finditer(text):
            rest = match["rest"] or ""
            known = forms[match[0].removesuffix(rest) if rest else match[0]].path
            pieces += [text[begin : match.start()], self.token(known.rstrip("/") + rest if rest else known)]
            begin = match.end()
        return [*pieces, text[begin:]]


@dataclass(frozen=True)
class _Form:
    """What a piece of a message names, and whether it must look like a path to be taken for that."""

    path: str
    in_paths: bool


def _forms(path: str) -> dict[str, _Form]:
    """All pieces of a message that may name a path or a folder that leads to it."""
    found: dict[str, _Form] = {}
    for whole in (path.rstrip("/"), os.path.normpath(path), os.path.abspath(path)):
        name = os.path.basename(whole)
        for form in (whole, name):
            found.setdefault(form, _Form(path, form in _WORDS or len(form) == 1))
        above = os.path.dirname(whole)
        while os.path.basename(above):
            found.setdefault(above, _Form(above, "/" not in above))
            above = os.path.dirname(above)
    for form, known in list(found.items()):
        found.setdefault(repr(form)[1:-1], known)
    return {form: known for form, known in found.items() if re.search(r"\w", form)}


def _pattern(forms: Mapping[str, _Form]) -> re.Pattern[str]:
    """The longest form at each place, with what follows it as a path; never a part of a longer word."""
    longest = sorted(forms, key=len, reverse=True)
    free = "|".join(re.escape(form) for form in longest if not forms[form].in_paths)
    bound = "|".join(re.escape(form) for form in longest if forms[form].in_paths)
    nothing = r"(?!)"
    words = rf"(?<!\w)(?:{free or nothing})(?!\w)"
    parts = rf"(?<![^/'\"])(?:{bound or nothing})(?!\w)|(?<!\w)(?:{bound or nothing})(?=/)"
    return re.compile(f"(?:{words}|{parts}){_REST}")
