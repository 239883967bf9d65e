"""Reading and writing the small binary headers of codestreams and adapters, with every bound checked."""

from __future__ import annotations

from callic_archive.errors import CodestreamSyntaxError


class Writer:
    """Collects header fields."""

    def __init__(self) -> None:
        self._parts = bytearray()

    def raw(self, data: bytes) -> None:
        """Bytes as they are."""
        self._parts += data

    def byte(self, value: int) -> None:
        """One byte, 0..255."""
        self._parts.append(value)

    def varint(self, value: int) -> None:
        """Unsigned LEB128."""
        while value >= 0x80:
            self._parts.append(value & 0x7F | 0x80)
            value >>= 7
        self._parts.append(value)

    def signed(self, value: int) -> None:
        """Signed integer, zigzag then LEB128."""
        self.varint(2 * value if value >= 0 else -2 * value - 1)

    def getvalue(self) -> bytes:
        """All that was written."""
        return bytes(self._parts)


class Reader:
    """Takes header fields apart; reading past the end or an over-long number raises CodestreamSyntaxError."""

    def __init__(self, data: bytes | memoryview) -> None:
        self.data = memoryview(data)
        self.position = 0

    def raw(self, count: int) -> bytes:
        """The next ``count`` bytes."""
        if count < 0 or count > len(self.data) - self.position:
            raise CodestreamSyntaxError("the codestream ends inside its header")
        part = self.data[self.position : self.position + count]
        self.position += count
        return bytes(part)

    def byte(self) -> int:
        """One byte."""
        return self.raw(1)[0]

    def varint(self, limit: int) -> int:
        """Unsigned LEB128, minimal length, at most ``limit``."""
        value, shift = 0, 0
        while True:
            part = self.byte()
            value |= (part & 0x7F) << shift
            shift += 7
            if part < 0x80:
                break
            if shift > 63:
                raise CodestreamSyntaxError("a number in the header is too long")
        if shift > 7 and part == 0:
            raise CodestreamSyntaxError(f"a number in the header ({value}) is not in its shortest form")
        if value > limit:
            raise CodestreamSyntaxError(f"a number in the header ({value}) exceeds its limit {limit}")
        return value

    def signed(self, limit: int) -> int:
        """Signed integer of magnitude at most ``limit``."""
        value = self.varint(2 * limit + 1)
        return value // 2 if value % 2 == 0 else -(value + 1) // 2
