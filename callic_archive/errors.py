"""Every failure a user can meet, in one hierarchy.

Each class carries the code under which ``docs/format/errors.md`` describes it, and the exit code with which
the command line answers when the failure ends a run. Code ranges: E0xx usage, E1xx sources and image files,
E2xx codestreams and entropy coding, E3xx models and adapters, E4xx container, E5xx archive, E6xx environment.
"""

from __future__ import annotations

from typing import ClassVar


class CallicError(Exception):
    """Base of all errors raised on purpose. ``str(error)`` is a full sentence for the user."""

    code: ClassVar[str] = "E000"
    exit_code: ClassVar[int] = 1
    paths: tuple[str, ...] = ()  # named in the message, so that a report can hide them


# -- E0xx: usage ---------------------------------------------------------------------------------------------


class UsageError(CallicError):
    """The command or call cannot mean anything: wrong option, missing path, existing destination."""

    code = "E001"
    exit_code = 2


class MissingPath(UsageError):
    """A path given on the command line does not exist."""

    code = "E002"


class DestinationExists(UsageError):
    """What would be written is there already; nothing existing is replaced unasked."""

    code = "E003"


class OtherRun(UsageError):
    """What is unfinished beside the destination belongs to another command, or to one that is still running."""

    code = "E004"


class NoSuchEntry(UsageError):
    """A pattern given on the command line matches nothing in the archive."""

    code = "E005"


class RegionError(UsageError):
    """A region cannot be read as one, is empty, or does not lie within the image."""

    code = "E020"


class UnknownPath(UsageError, KeyError):
    """The archive has no entry of this path."""

    code = "E021"

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""  # a KeyError would show its repr


class NoSuchImage(UsageError):
    """An entry is no file, holds no image that can be decoded, or not as many as were asked for."""

    code = "E022"


# -- E1xx: sources and image files ---------------------------------------------------------------------------


class SourceError(CallicError):
    """A source file cannot be read or lies about itself. The file is kept verbatim when its bytes can
    be read.
    """

    code = "E100"
    exit_code = 1


class TruncatedSource(SourceError):
    """A source image file ends before the data that its own header promises."""

    code = "E101"


class MalformedSource(SourceError):
    """A source image file contradicts itself or its format: bad checksum, overlapping or cyclic
    offsets, wrong counts.
    """

    code = "E102"


class SourceTooLarge(SourceError):
    """A source image file asks for more than the limits allow: decoded bytes, expansion ratio, images
    or blocks.
    """

    code = "E103"


class RebuildMismatch(SourceError):
    """Recipe, surrounding bytes and images do not belong together, so the file cannot be written again
    from them.
    """

    code = "E104"


# -- E2xx: codestreams and entropy coding --------------------------------------------------------------------


class CodestreamError(CallicError):
    """A codestream breaks its specification."""

    code = "E200"
    exit_code = 3


class EntropyInputError(CodestreamError):
    """The entropy coder was asked for what it cannot code: wrong shape or type, empty range, symbol out
    of range.
    """

    code = "E210"


class StreamTruncatedError(CodestreamError):
    """An entropy-coded stream ends before its last symbol."""

    code = "E211"


class StreamTrailingError(CodestreamError):
    """An entropy-coded stream goes on after its last symbol, or does not end as an encoder ends it."""

    code = "E212"


class StreamCorruptError(CodestreamError):
    """An entropy-coded stream holds a value that no encoder writes, or has already failed."""

    code = "E213"


class EntropyTableError(CodestreamError):
    """The mixture tables of a model file are missing or cannot form a CDF."""

    code = "E214"


class TorchacLevelsError(CodestreamError):
    """A plane has more levels than the torchac coder's 16-bit tables serve; the range coder takes it."""

    code = "E215"
    exit_code = 2


class TorchacUnavailableError(CodestreamError):
    """The torchac coder is asked for, or named by a codestream, and cannot be loaded or compiled on
    this machine.
    """

    code = "E216"
    exit_code = 4


class CodestreamSyntaxError(CodestreamError):
    """A codestream's header or structure breaks the specification: truncated, damaged, or never written
    by an encoder.
    """

    code = "E220"


class CodestreamVersionError(CodestreamError):
    """A codestream has a version that this program does not read."""

    code = "E221"


class PixelMismatch(CodestreamError):
    """A codestream decoded to pixels whose digest is not the recorded one."""

    code = "E222"


class UnsupportedImage(CodestreamError):
    """An array's type, shape or size is none that the codec codes."""

    code = "E223"
    exit_code = 2


class ChunkFrameError(CodestreamError):
    """A chunk of a zarr array that should hold a frame of the callic codec holds none, or a damaged one."""

    code = "E230"


# -- E3xx: models and adapters -------------------------------------------------------------------------------


class ModelError(CallicError):
    """A model or adapter file is missing, damaged, or breaks a bound that exactness rests on."""

    code = "E300"
    exit_code = 3


class UnknownModel(ModelError):
    """A codestream names a model or adapter that is not at hand."""

    code = "E301"


class DamagedModel(ModelError):
    """A model or adapter file does not match its digest or its format."""

    code = "E302"


class InexactModel(ModelError):
    """A model or adapter breaks a bound that exact inference rests on; it is refused."""

    code = "E303"


class MismatchedAdapter(ModelError):
    """An adapter was made for another model than the one it is used with."""

    code = "E304"


class UnsuitableModel(ModelError):
    """A model given by name or file cannot serve: no such name, planes that no image needs, or given twice."""

    code = "E305"
    exit_code = 2


class NothingToTrain(ModelError):
    """The sources hold no image, or too little of one, that the model in training would code."""

    code = "E306"
    exit_code = 2


class DamagedCheckpoint(ModelError):
    """The checkpoint of an unfinished training cannot be read, or belongs to another model."""

    code = "E307"


# -- E4xx: container -----------------------------------------------------------------------------------------


class ContainerError(CallicError):
    """A shard, index or bag breaks its specification."""

    code = "E400"
    exit_code = 3


class NotAShard(ContainerError):
    """The file is no shard: neither its header nor any record of it can be recognised."""

    code = "E401"


class UnsupportedShardVersion(ContainerError):
    """The shard, record or index was written by a version of the format this reader does not know."""

    code = "E402"


class ShardHeaderDamaged(ContainerError):
    """The first 32 bytes of the shard are damaged. Records stay readable when INDEX or END tells the id."""

    code = "E403"


class RecordHeaderDamaged(ContainerError):
    """No intact record header where one must be."""

    code = "E404"


class RecordChecksumMismatch(ContainerError):
    """A record's header is intact, but its payload or checksum is damaged."""

    code = "E405"


class WrongRecord(ContainerError):
    """An intact record, but not the one asked for: swapped, moved, or from another shard."""

    code = "E406"


class ShardTruncated(ContainerError):
    """The shard ends inside a record, or before the record asked for."""

    code = "E407"


class ShardNotSealed(ContainerError):
    """The shard has no END record: it was never sealed, or lost its tail."""

    code = "E408"


class ShardIndexDamaged(ContainerError):
    """An INDEX or END record contradicts itself or the place where it stands."""

    code = "E409"


class SequenceBroken(ContainerError):
    """Records of the shard are missing, repeated or out of order."""

    code = "E410"


class TrailingBytes(ContainerError):
    """Bytes follow the END record of a shard."""

    code = "E411"


class UnknownRecordType(ContainerError):
    """An intact record of a type that this version of the format does not have."""

    code = "E412"


class ContainerLimit(ContainerError):
    """A length goes beyond what the format can express, or beyond a cap of this program."""

    code = "E413"


class ShardExists(ContainerError):
    """A shard of this name, or its ``.partial``, already exists; one shard has one writer."""

    code = "E414"
    exit_code = 2


class WriterClosed(ContainerError):
    """The shard writer was closed or sealed and takes no more records."""

    code = "E415"


class UnknownBytes(ContainerError):
    """Bytes that belong to no recognisable record."""

    code = "E416"


class IndexDamaged(ContainerError):
    """The index file is not one complete Zstandard frame of JSON lines, or lines of it are missing."""

    code = "E420"


class IndexLineTooLong(ContainerError):
    """A line of the index file is longer than the cap."""

    code = "E421"


class IndexTooLarge(ContainerError):
    """The index file unfolds to more bytes than the cap."""

    code = "E422"


class IndexEntryInvalid(ContainerError):
    """A line of the index file, or a record reference in it, is not of the specified form."""

    code = "E423"


class BagMalformed(ContainerError):
    """A tag file of the bag is missing, unreadable or not of the form of RFC 8493."""

    code = "E430"


class BagFileMissing(ContainerError):
    """A file that the bag's manifest lists is not there."""

    code = "E431"


class BagFileUnlisted(ContainerError):
    """A payload file is there that the bag's manifest does not list."""

    code = "E432"


class BagSizeMismatch(ContainerError):
    """The payload's size or number of files is not what Payload-Oxum says."""

    code = "E433"


class BagHashMismatch(ContainerError):
    """A file of the bag does not have the SHA-256 that the manifest lists."""

    code = "E434"


class UnsafePath(ContainerError):
    """A path that would leave the destination: absolute, with ``..``, empty parts or NUL."""

    code = "E440"


class SymlinkInPath(ContainerError):
    """A part of the path is a symbolic link or no directory; it is never followed."""

    code = "E441"


class TargetExists(ContainerError):
    """The path to be written exists already."""

    code = "E442"
    exit_code = 2


class InvalidName(ContainerError):
    """The readable and the base64 form of a name contradict each other, or a name cannot be encoded."""

    code = "E443"


# -- E5xx: archive -------------------------------------------------------------------------------------------


class ArchiveError(CallicError):
    """An archive as a whole cannot be used as asked."""

    code = "E500"
    exit_code = 3


class NotAnArchive(ArchiveError):
    """The path holds no finished archive: something else, an unfinished one, or one of a newer version."""

    code = "E501"


class EntryDamaged(ArchiveError):
    """Records of one entry are missing or fail their checks, so this entry cannot be restored. Others
    still can.
    """

    code = "E502"


class DigestMismatch(ArchiveError):
    """A restored entry differs from the digest that was stored when it was packed."""

    code = "E503"


class UnsafeEntry(ArchiveError):
    """An entry asks to be written outside the destination, through a link, or as something no archive
    may hold.
    """

    code = "E504"


class TreeDiffers(ArchiveError):
    """An entry differs from the file of a directory tree that the archive was compared with."""

    code = "E505"


class RestoreFailed(ArchiveError):
    """An entry is sound, but the destination did not let it be written."""

    code = "E506"
    exit_code = 1


class LinkNotKept(ArchiveError):
    """A further name of a file or link came back as a copy, because the destination has no hard links."""

    code = "E507"
    exit_code = 1


class ForeignCodecMissing(ArchiveError):
    """An entry was coded as JPEG XL or WebP, and imagecodecs, which reads those, is not installed here."""

    code = "E508"
    exit_code = 4


class ForeignCodecFailed(ArchiveError):
    """The library of JPEG XL or WebP refused its input, crashed, or took too long; it runs in a process of
    its own.
    """

    code = "E509"


class ProofFailed(ArchiveError):
    """What was decoded right after encoding was not the source; the file was stored verbatim instead."""

    code = "E510"
    exit_code = 1


class UnexpectedFailure(ArchiveError):
    """A parser or codec failed on one file in a way nobody planned for; the file was stored verbatim
    instead.
    """

    code = "E511"
    exit_code = 1


class SourceUnreadable(ArchiveError):
    """A source cannot be read at all, so it is missing from the archive."""

    code = "E512"
    exit_code = 1


class SpecialFile(ArchiveError):
    """A source is a socket, pipe or device; those are not archived."""

    code = "E513"
    exit_code = 1


class SourceChanged(ArchiveError):
    """A source changed while it was read; what was read is kept."""

    code = "E514"
    exit_code = 1


class WorkerKiller(ArchiveError):
    """A source ended every worker process that took it; it was stored verbatim instead."""

    code = "E515"
    exit_code = 1


# -- E6xx: environment ---------------------------------------------------------------------------------------


class EnvironmentFailure(CallicError):
    """The machine lacks what the run needs: a GPU, disk space, a cluster, a library."""

    code = "E600"
    exit_code = 4


class OutOfSpace(EnvironmentFailure):
    """No space, quota or allowed file size is left where the output goes. Never a fault of a source."""

    code = "E610"


class WriteFailure(EnvironmentFailure):
    """The output could not be written, for another reason than space. Never a fault of a source."""

    code = "E611"


class ReadFailure(EnvironmentFailure):
    """The storage under an archive gave an error on reading, so the bytes are unknown rather than wrong."""

    code = "E612"


class NoSuchDevice(EnvironmentFailure):
    """The GPU that was asked for is not there, or not usable from here."""

    code = "E601"


class ClusterFailed(EnvironmentFailure):
    """The worker processes cannot be started or reached, or were all lost."""

    code = "E604"


class DeviceFailed(EnvironmentFailure):
    """The GPU ran out of memory or failed; the process that used it cannot go on."""

    code = "E606"


class StoppedEarly(EnvironmentFailure):
    """The run was asked to stop and did so in good order; the same command goes on where it was."""

    code = "E620"
    exit_code = 75


class Interrupted(EnvironmentFailure):
    """The run was interrupted from the keyboard; the same command goes on where it was."""

    code = "E621"
    exit_code = 130
