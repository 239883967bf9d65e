"""Integer weights of a model: the file, its digest, and the proof that no accumulator can leave the exact
range.

A model file is safetensors: integer arrays only, plus one JSON document in its metadata. The SHA-256 of the
whole file is the model's name in every codestream. Loading checks shapes, ranges and the overflow bounds; a
file that fails is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from callic_archive.errors import DamagedModel, InexactModel, UnknownModel
from callic_archive.model import tables
from callic_archive.model.config import EMBED_TAPS, GUIDE_FEATURES, TAPS, MGCFConfig, causal_taps
from callic_archive.model.packed_file import SUFFIX, unpack_model

FILE_VERSION = 1
#: Largest model file that is read, in bytes.
MAX_FILE = 256 << 20
#: Float32 carries integers exactly below this; every matrix product and partial sum stays under it.
EXACT_FLOAT32 = 1 << 24
EXACT_FLOAT64 = 1 << 53
#: Binary places of activations, either way.
MAX_PLACES = 64
I32 = NDArray[np.int32]


@dataclass(frozen=True)
class Linear:
    """``out = (W x + bias) >> shift`` (rounded, per output channel). Weight (out, in), bias (out,), shift
    (out,)."""

    weight: I32
    bias: I32
    shift: I32

    def bound(self, limit: int | NDArray[np.int64]) -> int:
        """Largest possible |W x| over all channels, for inputs of magnitude at most ``limit`` (scalar or per
        input)."""
        return int((np.abs(self.weight.astype(np.int64)) * limit).sum(axis=1).max())


@dataclass(frozen=True)
class Depthwise:
    """Masked depth-wise convolution: kernel (taps, C) in the order of ``causal_taps``, bias and shift
    (C,)."""

    kernel: I32
    bias: I32
    shift: I32


@dataclass(frozen=True)
class BlockWeights:
    """One block. ``product_shift`` requantises swish(A) * V; the tables hold swish and GELU."""

    a: Linear
    v: Linear
    o: Linear
    dw: Depthwise
    up: Linear
    down: Linear
    product_shift: int
    swish: NDArray[np.int16]
    gelu: NDArray[np.int16]


@dataclass(frozen=True)
class IntegerWeights:
    """All integers that exact inference reads. ``eps``: what LayerNorm adds to the sum of squares."""

    config: MGCFConfig
    skip: I32  # (C, taps - 1), 14 binary places
    embed: Linear
    blocks: tuple[BlockWeights, ...]
    head: Linear
    compand: NDArray[np.int16]
    rsqrt: I32
    eps: int
    stream_fraction: int
    fractions: dict[str, Any] = field(
        default_factory=dict
    )  # of activations: what adaptation needs to dequantise

    def adapted_layers(self) -> list[tuple[str, Linear | Depthwise]]:
        """Layers an adapter may change, by name, in the order of the adapter's syntax."""
        found: list[tuple[str, Linear | Depthwise]] = []
        for i, block in enumerate(self.blocks):
            found += [(f"{i}.a", block.a), (f"{i}.v", block.v), (f"{i}.dw", block.dw), (f"{i}.up", block.up)]
        return found

    def with_layers(self, changed: dict[str, Linear | Depthwise]) -> IntegerWeights:
        """A copy with some adapted layers replaced; the caller checks bounds with :func:`check_exact`."""
        blocks = list(self.blocks)
        for name, layer in changed.items():
            index, part = name.split(".")
            blocks[int(index)] = replace(blocks[int(index)], **{part: layer})  # type: ignore[arg-type]
        return replace(self, blocks=tuple(blocks))


def feature_limits(config: MGCFConfig) -> NDArray[np.int64]:
    """Largest magnitude of each embedding input: companded residuals, levels, shift; of a guide, differences and use."""
    residual = np.full(EMBED_TAPS * config.channels, tables.COMPAND_MAX)
    guide = np.append(np.full(GUIDE_FEATURES - 1, tables.COMPAND_MAX), tables.GUIDED)
    return np.concatenate([residual, np.full(config.channels, 512), [64], *[guide] * config.guides]).astype(np.int64)


def check_exact(weights: IntegerWeights) -> None:
    """Prove the overflow bounds for every input. Raises InexactModel naming the layer that could overflow."""

    def need(name: str, bound: int, limit: int) -> None:
        if bound >= limit:
            raise InexactModel(
                f"layer {name}: an accumulator could reach {bound}, at most {limit - 1} is exact"
            )

    def epilogue(name: str, layer: Linear | Depthwise, bound: int, limit: int = 1 << 30) -> None:
        need(f"{name} (with bias)", bound + int(np.abs(layer.bias.astype(np.int64)).max()), limit)
        if layer.shift.min() < 0 or layer.shift.max() > 30:
            raise InexactModel(f"layer {name}: shifts must lie within 0..30")

    config = weights.config
    if config.dim < 2 or config.dim & (config.dim - 1):
        raise InexactModel(f"LayerNorm's integer mean needs a dim that is a power of two, not {config.dim}")
    bound = weights.embed.bound(feature_limits(config))
    need("embed", bound, EXACT_FLOAT32)
    epilogue("embed", weights.embed, bound)
    for i, block in enumerate(weights.blocks):
        for part in ("a", "v", "o", "up", "down"):
            layer = getattr(block, part)
            bound = layer.bound(tables.ACT_MAX)
            need(f"{i}.{part}", bound, EXACT_FLOAT32)
            epilogue(f"{i}.{part}", layer, bound)
        bound = int(np.abs(block.dw.kernel.astype(np.int64)).sum(axis=0).max()) * tables.ACT_MAX
        need(f"{i}.dw", bound, EXACT_FLOAT32)
        epilogue(f"{i}.dw", block.dw, bound)
        if not 0 <= block.product_shift <= 20:
            raise InexactModel(f"block {i}: the product's shift must lie within 0..20")
        # In int64: the magnitude of int16's least value is no int16.
        if max(int(np.abs(t.astype(np.int64)).max()) for t in (block.swish, block.gelu)) > tables.ACT_MAX:
            raise InexactModel(f"block {i}: an activation table leaves the 10-bit range")
    bound = weights.head.bound(tables.STREAM_MAX)
    need("head", bound, EXACT_FLOAT64)
    epilogue("head", weights.head, bound, 1 << 52)
    if weights.eps < 1 << 14 or weights.eps >= 1 << 40:
        raise InexactModel("LayerNorm's epsilon must lie within 2^14..2^40")
    if weights.rsqrt.min() < 1 or weights.rsqrt.max() >= 1 << 24:
        raise InexactModel("the reciprocal square root table leaves 24 bits")
    if np.abs(weights.skip.astype(np.int64)).sum() >= 1 << 20:
        raise InexactModel("the skip prediction's weights exceed their range")
    if weights.compand.min() < 0 or weights.compand.max() > tables.COMPAND_MAX:
        raise InexactModel(f"the companding table goes beyond {tables.COMPAND_MAX}")


# -- the file
# --------------------------------------------------------------------------------------------------


def _shapes(config: MGCFConfig) -> dict[str, tuple[tuple[int, ...], type[np.integer[Any]]]]:
    """Every array of a model file: name -> (shape, dtype)."""
    c, taps = config.dim, len(causal_taps(config.kernel, include_group=True))
    shapes: dict[str, tuple[tuple[int, ...], type[np.integer[Any]]]] = {
        "skip": ((config.channels, len(TAPS) - 1), np.int32),
        "compand": ((tables.COMPAND_SIZE,), np.int16),
        "rsqrt": ((tables.RSQRT_HIGH - tables.RSQRT_LOW,), np.int32),
    }

    def linear(name: str, out: int, inner: int, dtype: type[np.integer[Any]]) -> None:
        shapes[f"{name}.weight"] = ((out, inner), dtype)
        shapes[f"{name}.bias"] = ((out,), np.int32)
        shapes[f"{name}.shift"] = ((out,), np.int8)

    linear("embed", c, config.features, np.int16)
    linear("head", config.outputs, c, np.int16)
    for i in range(config.depth):
        for part, out, inner in (
            ("a", c, c),
            ("v", c, c),
            ("o", c, c),
            ("up", config.hidden, c),
            ("down", c, config.hidden),
        ):
            linear(f"{i}.{part}", out, inner, np.int8)
        shapes[f"{i}.dw.kernel"] = ((taps, c), np.int8)
        shapes[f"{i}.dw.bias"] = ((c,), np.int32)
        shapes[f"{i}.dw.shift"] = ((c,), np.int8)
        shapes[f"{i}.swish"] = ((2 * tables.ACT_HALF,), np.int16)
        shapes[f"{i}.gelu"] = ((2 * tables.ACT_HALF,), np.int16)
    return shapes


def _linear(arrays: dict[str, NDArray[Any]], name: str) -> Linear:
    return Linear(
        *(np.ascontiguousarray(arrays[f"{name}.{p}"], dtype=np.int32) for p in ("weight", "bias", "shift"))
    )


def to_arrays(weights: IntegerWeights) -> dict[str, NDArray[Any]]:
    """The arrays of a model file, in their stored dtypes."""
    flat: dict[str, NDArray[Any]] = {"skip": weights.skip, "compand": weights.compand, "rsqrt": weights.rsqrt}

    def linear(name: str, layer: Linear) -> None:
        flat[f"{name}.weight"], flat[f"{name}.bias"], flat[f"{name}.shift"] = (
            layer.weight,
            layer.bias,
            layer.shift,
        )

    linear("embed", weights.embed)
    linear("head", weights.head)
    for i, block in enumerate(weights.blocks):
        for part in ("a", "v", "o", "up", "down"):
            linear(f"{i}.{part}", getattr(block, part))
        flat[f"{i}.dw.kernel"], flat[f"{i}.dw.bias"], flat[f"{i}.dw.shift"] = (
            block.dw.kernel,
            block.dw.bias,
            block.dw.shift,
        )
        flat[f"{i}.swish"], flat[f"{i}.gelu"] = block.swish, block.gelu
    stored = {}
    for name, (shape, dtype) in _shapes(weights.config).items():
        array = flat[name]
        if array.shape != shape or array.min() < np.iinfo(dtype).min or array.max() > np.iinfo(dtype).max:
            raise InexactModel(f"array {name} does not fit its stored form {shape} {np.dtype(dtype)}")
        stored[name] = np.ascontiguousarray(array.astype(dtype))
    return stored


@dataclass(frozen=True)
class IntegerModel:
    """A loaded, checked model. ``mixture`` holds the entropy coder's tables, opaque to this package."""

    name: str
    digest: str
    weights: IntegerWeights
    mixture: dict[str, NDArray[Any]]
    metadata: dict[str, Any]
    path: Path | None = None
    raw: bytes = field(default=b"", repr=False)

    @property
    def channels(self) -> int:
        """Planes the model codes jointly."""
        return self.weights.config.channels

    @property
    def guides(self) -> int:
        """Planes known before that the model can take beside those it codes."""
        return self.weights.config.guides

    @property
    def parameters(self) -> int:
        """Integers that stand for trained weights: tables and shifts left out."""
        return sum(
            array.size
            for name, array in to_arrays(self.weights).items()
            if name == "skip" or name.rsplit(".", 1)[-1] in ("weight", "bias", "kernel")
        )

    def file_bytes(self) -> bytes:
        """The file whose SHA-256 is ``digest``."""
        return self.raw


def arrays_digest(arrays: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 (hex) over the arrays of a model file, by name: name, NUL, little-endian bytes in row order."""
    found = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        found.update(name.encode() + b"\0")
        found.update(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes())
    return found.hexdigest()


def save_model(
    path: Path, name: str, weights: IntegerWeights, mixture: dict[str, NDArray[Any]], metadata: dict[str, Any]
) -> str:
    """Write a model file and return its SHA-256. Raises InexactModel when a bound does not hold."""
    raw = model_file(name, weights, mixture, metadata)
    path.write_bytes(raw)
    return hashlib.sha256(raw).hexdigest()


def model_file(
    name: str, weights: IntegerWeights, mixture: dict[str, NDArray[Any]], metadata: dict[str, Any]
) -> bytes:
    """The bytes of a model file. Raises InexactModel when a bound does not hold."""
    from safetensors.numpy import save

    check_exact(weights)
    arrays = to_arrays(weights) | {f"mixture.{k}": np.ascontiguousarray(v) for k, v in mixture.items()}
    document = {
        "version": FILE_VERSION,
        "name": name,
        "config": weights.config.as_dict(),
        "eps": weights.eps,
        "stream_fraction": weights.stream_fraction,
        "product_shift": [b.product_shift for b in weights.blocks],
        "fractions": weights.fractions,
        **metadata,
    }
    return bytes(save(arrays, metadata={"callic": json.dumps(document, sort_keys=True)}))


def read_model_bytes(path: Path) -> bytes:
    """The bytes of a model file, out of the form that archives carry it in (``.model.xz``) where it is in that.

    Raises: UnknownModel when it cannot be read, DamagedModel when it is too large or not whole.
    """
    try:
        if path.stat().st_size > MAX_FILE:
            raise DamagedModel(f"{path} has more than the {MAX_FILE} bytes of a model")
        raw = path.read_bytes()
    except OSError as error:
        raise UnknownModel(f"cannot read the model file {path}: {error.strerror or error}") from error
    if not path.name.endswith(SUFFIX):
        return raw
    try:
        return unpack_model(raw, MAX_FILE)
    except ValueError as error:
        raise DamagedModel(f"{path} is no packed model: {error}") from error


def load_model(source: Path | bytes, *, digest: str | None = None) -> IntegerModel:
    """Load and check a model file (``.safetensors``, or ``.model.xz`` as archives carry it).

    Raises: UnknownModel when there is no such file, DamagedModel when its digest or structure is wrong,
    InexactModel when a bound of exact inference does not hold.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    path = source if isinstance(source, Path) else None
    if isinstance(source, Path):
        raw = read_model_bytes(source)
    else:
        raw = bytes(source)
    where = str(path) if path else "an embedded model"
    found = hashlib.sha256(raw).hexdigest()
    if digest is not None and found != digest:
        raise DamagedModel(
            f"{where} has SHA-256 {found}, expected {digest}: the file is damaged or another model"
        )
    try:
        arrays = load(raw)
        length = int.from_bytes(raw[:8], "little")
        document = json.loads(json.loads(raw[8 : 8 + length])["__metadata__"]["callic"])
        stated = document.get("arrays_sha256")
        if stated is not None and stated != arrays_digest(arrays):
            raise ValueError("its arrays do not have the SHA-256 that it states: the file is damaged")
        weights, mixture = _assemble(arrays, document)
        name = str(document["name"])
    except InexactModel:
        raise
    except (SafetensorError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedModel(f"{where} is not a model of this format: {error}") from error
    check_exact(weights)
    return IntegerModel(name, found, weights, mixture, document, path, raw)


def _whole(value: Any, limit: int) -> int:
    """``value`` where it is a JSON integer of at most this magnitude; ValueError where it is not."""
    if type(value) is not int or abs(value) > limit:
        raise ValueError(f"{value!r} stands where an integer of at most {limit} belongs")
    return value


def _fractions(document: dict[str, Any], depth: int) -> dict[str, dict[str, int]]:
    """Binary places of each block's activations: all there and small, so that merging never fails on them."""
    places = {i: dict(document["fractions"][i]) for i in map(str, range(depth))}
    found = {i: {k: _whole(v, MAX_PLACES) for k, v in block.items()} for i, block in places.items()}
    if any(not {"a", "v", "dw", "up"} <= set(block) for block in found.values()):
        raise ValueError("binary places of an adapted layer are missing")
    return found


def _assemble(
    arrays: dict[str, NDArray[Any]], document: dict[str, Any]
) -> tuple[IntegerWeights, dict[str, NDArray[Any]]]:
    if document["version"] != FILE_VERSION:
        raise ValueError(f"model file version {document['version']} (this program reads {FILE_VERSION})")
    sizes = {k: _whole(v, 1 << 16) for k, v in document["config"].items()}
    if set(sizes) - {"guides"} != set(MGCFConfig().as_dict()):
        raise ValueError("a model's sizes are missing or unknown")
    config = MGCFConfig(**sizes)
    expected = _shapes(config)
    mixture = {k.removeprefix("mixture."): v for k, v in arrays.items() if k.startswith("mixture.")}
    if set(arrays) != set(expected) | {f"mixture.{k}" for k in mixture}:
        raise ValueError("arrays are missing or unknown")
    for name, (shape, dtype) in expected.items():
        if arrays[name].shape != shape or arrays[name].dtype != np.dtype(dtype):
            raise ValueError(f"array {name} has shape {arrays[name].shape} and type {arrays[name].dtype}")
    blocks = []
    for i in range(config.depth):
        parts = {part: _linear(arrays, f"{i}.{part}") for part in ("a", "v", "o", "up", "down")}
        depthwise = Depthwise(
            *(np.ascontiguousarray(arrays[f"{i}.dw.{p}"], np.int32) for p in ("kernel", "bias", "shift"))
        )
        blocks.append(
            BlockWeights(
                dw=depthwise,
                product_shift=_whole(document["product_shift"][i], 1 << 16),
                swish=arrays[f"{i}.swish"],
                gelu=arrays[f"{i}.gelu"],
                **parts,
            )
        )
    weights = IntegerWeights(
        config,
        np.ascontiguousarray(arrays["skip"]),
        _linear(arrays, "embed"),
        tuple(blocks),
        _linear(arrays, "head"),
        arrays["compand"],
        np.ascontiguousarray(arrays["rsqrt"]),
        _whole(document["eps"], 1 << 62),
        _whole(document["stream_fraction"], MAX_PLACES),
        _fractions(document, config.depth),
    )
    return weights, mixture


# -- sets of models
# --------------------------------------------------------------------------------------------


class ModelSet:
    """Models by digest. The order is the order of preference; names are unique. ``rivals`` (digests): of these, where some
    code the planes at hand, an image takes the one that codes it smallest, and no other."""

    def __init__(self, models: Sequence[IntegerModel], rivals: Collection[str] = ()) -> None:
        self._models = {m.digest: m for m in models}
        self._rivals = frozenset(rivals)

    @classmethod
    def default(cls) -> ModelSet:
        """The models shipped inside the package. Raises DamagedModel when a file does not match its recorded
        digest."""
        folder = Path(__file__).parent / "weights_data"
        try:
            recorded = dict(json.loads((folder / "digests.json").read_text("utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise DamagedModel(
                f"the package's list of models is damaged, install it again: {error}"
            ) from error
        return cls(
            [load_model(folder / f"{name}.safetensors", digest=digest) for name, digest in recorded.items()]
        )

    @classmethod
    def from_paths(cls, paths: Sequence[Path], digests: Sequence[str] = ()) -> ModelSet:
        """Models from files, and their digests where they are known. Raises ModelError."""
        known: Sequence[str | None] = digests or [None] * len(paths)
        return cls([load_model(Path(p), digest=d) for p, d in zip(paths, known, strict=True)])

    def without(self, digests: Collection[str]) -> ModelSet:
        """The set less the models with these SHA-256."""
        return ModelSet([m for m in self if m.digest not in digests], self._rivals)

    def smaller(self) -> ModelSet:
        """The set less the model with the most weights for each number of planes, where there are others."""
        most: dict[int, IntegerModel] = {}
        for model in self:
            if model.channels not in most or model.parameters > most[model.channels].parameters:
                most[model.channels] = model
        others = {model.channels for model in self if most[model.channels] is not model}
        return ModelSet([m for m in self if most[m.channels] is not m or m.channels not in others], self._rivals)

    def by_size(self, channels: int) -> list[IntegerModel]:
        """The models that code this many planes jointly, those of the fewest weights first."""
        return sorted((m for m in self if m.channels == channels), key=lambda m: m.parameters)

    def __iter__(self) -> Iterator[IntegerModel]:
        return iter(self._models.values())

    def __len__(self) -> int:
        return len(self._models)

    def get(self, digest: str) -> IntegerModel:
        """The model with this SHA-256. Raises UnknownModel."""
        try:
            return self._models[digest]
        except KeyError:
            raise UnknownModel(
                f"this data needs the model {digest[:16]}…, which is not among those at hand"
            ) from None

    def find(self, prefix: bytes) -> IntegerModel:
        """The model whose SHA-256 begins with ``prefix`` (codestreams carry 8 bytes of it). Raises
        UnknownModel."""
        for digest, model in self._models.items():
            if digest.startswith(prefix.hex()):
                return model
        raise UnknownModel(
            f"this data needs the model {prefix.hex()}…, which is not among those at hand; give its file with --model"
        )

    def candidates(self, channels: int) -> tuple[IntegerModel, ...]:
        """The models of which the smallest code of so many planes decides: the rivals among them, or else the first."""
        fitting = tuple(m for m in self if m.channels == channels)
        return tuple(m for m in fitting if m.digest in self._rivals) or fitting[:1]

    def for_channels(self, channels: int) -> IntegerModel | None:
        """The first model that codes this many planes jointly, or None."""
        return next(iter(self.candidates(channels)), None)
