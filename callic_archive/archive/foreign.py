"""Third-party image codecs, run in a process of their own: ``python -m callic_archive.archive.foreign``.

A broken or hostile file may crash a decoder that is written in C++, or make it take all memory. Here that
costs one child process. Requests come on standard input, answers go to standard output, one after the other:

    request = u32 length of header, u64 length of body (little-endian), header (JSON), body
    answer  = one byte (0: done, 1: failed, 2: the library is missing), u64 length of body, body
"""

from __future__ import annotations

import json
import os
import select
import signal
import struct
import sys
import threading
from collections.abc import Mapping
from typing import Any, BinaryIO

REQUEST = struct.Struct("<IQ")
ANSWER = struct.Struct("<BQ")
DONE, FAILED, MISSING = 0, 1, 2
# What asks a run to end; the child ends when nobody is there any more to ask it, and not before.
LEFT_TO_THE_PARENT = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
SPACE = 3 << 30  # bytes of address space for the interpreter and its libraries,
SPACE_PER_BYTE = 80  # and for each byte of samples: JPEG XL at effort 9 takes about half of it


def serve(source: BinaryIO, target: BinaryIO) -> None:
    """Answer requests until the input ends."""
    while head := source.read(REQUEST.size):
        length, size = REQUEST.unpack(head)
        header = json.loads(source.read(length))
        body = source.read(size)
        try:
            _bound(int(header["memory"]))
            status, answer = DONE, _OPERATIONS[header["operation"]](header, body)
        except ImportError as error:
            status, answer = MISSING, str(error).encode()
        except Exception as error:  # noqa: BLE001 - whatever a library raises is the answer
            status, answer = FAILED, f"{type(error).__name__}: {error}".encode()
        target.write(ANSWER.pack(status, len(answer)))
        target.write(answer)
        target.flush()


def _bound(samples: int) -> None:
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = SPACE + SPACE_PER_BYTE * samples
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))


def _versions(header: Mapping[str, Any], body: bytes) -> bytes:
    import imagecodecs

    return json.dumps({"jpegxl": imagecodecs.jpegxl_version(), "webp": imagecodecs.webp_version()}).encode()


def _encode_jpegxl(header: Mapping[str, Any], body: bytes) -> bytes:
    import imagecodecs
    import numpy as np

    image = np.frombuffer(body, header["dtype"]).reshape(header["shape"])
    return bytes(imagecodecs.jpegxl_encode(image, lossless=True, effort=int(header["effort"]), numthreads=1))


def _decode_jpegxl(header: Mapping[str, Any], body: bytes) -> bytes:
    import imagecodecs

    return _samples(header, imagecodecs.jpegxl_decode(body, numthreads=1))


def _encode_webp(header: Mapping[str, Any], body: bytes) -> bytes:
    import imagecodecs
    import numpy as np

    image = np.frombuffer(body, header["dtype"]).reshape(header["shape"])
    return bytes(imagecodecs.webp_encode(image, lossless=True, level=int(header["effort"])))


def _decode_webp(header: Mapping[str, Any], body: bytes) -> bytes:
    import imagecodecs

    return _samples(header, imagecodecs.webp_decode(body, hasalpha=header["shape"][-1] == 4))


def _samples(header: Mapping[str, Any], image: Any) -> bytes:
    import numpy as np

    shape, dtype = tuple(header["shape"]), np.dtype(header["dtype"])
    if image.dtype != dtype or image.size != np.prod(shape) or image.shape[:2] != shape[:2]:
        raise ValueError(f"the stream holds {image.shape} of {image.dtype}, not {shape} of {dtype}")
    return bytes(image.tobytes())


def _encode_jpeg(header: Mapping[str, Any], body: bytes) -> bytes:
    import imagecodecs

    return bytes(imagecodecs.jpegxl_encode_jpeg(body, numthreads=1))


def _decode_jpeg(header: Mapping[str, Any], body: bytes) -> bytes:
    import imagecodecs

    return bytes(imagecodecs.jpegxl_decode_jpeg(body, numthreads=1))


_OPERATIONS = {
    "versions": _versions,
    "encode_jpegxl": _encode_jpegxl,
    "decode_jpegxl": _decode_jpegxl,
    "encode_webp": _encode_webp,
    "decode_webp": _decode_webp,
    "encode_jpeg": _encode_jpeg,
    "decode_jpeg": _decode_jpeg,
}


def _leave_signals() -> None:
    for number in LEFT_TO_THE_PARENT:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, LEFT_TO_THE_PARENT)  # the parent blocked them until here


def _end_with_parent() -> None:
    """End at once when the other end of standard input closes, in the middle of a request too, which may take minutes."""
    asking = select.poll()
    asking.register(0, 0)  # that it was closed is told unasked
    asking.poll()
    os._exit(1)


def main() -> None:
    """The child process. What libraries print must not get between the answers."""
    _leave_signals()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    target = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(sys.stdin.buffer, target)


if __name__ == "__main__":
    main()
