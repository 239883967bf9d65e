"""Which modules read bytes or text that nobody vouches for, and which targets reach each.

``test_parsers`` finds such modules by the calls in them; a new one has no target until it stands here.
"""

from __future__ import annotations

#: Calls by which a module takes bytes or text apart.
READS = frozenset(
    {
        "from_bytes", "unpack", "unpack_from", "iter_unpack", "frombuffer", "loads", "decompress", "decompressobj",
        "ZstdDecompressor", "decode_varint", "varint", "fromhex", "unrun", "match", "fullmatch", "search", "finditer",
    }
)  # fmt: skip

#: Path in the package: the targets whose good input runs functions of it. The first meets it most directly.
PARSERS: dict[str, tuple[str, ...]] = {
    "access/chunk_frame.py": ("chunk-frame",),
    "access/regions.py": ("words",),
    "archive/collection.py": ("adapters",),
    "archive/entries.py": ("entry", "row", "entry-record"),
    "archive/entry_record.py": ("entry-record", "salvage"),
    "archive/fragments.py": ("salvage", "entry"),
    "archive/image_coding.py": ("entry",),
    "archive/isolated.py": ("jpegs",),
    "archive/jpeg_form.py": ("jpegs", "jpegs-made"),
    "archive/jpeg_parts.py": ("jpegs", "jpegs-made"),
    "archive/listed.py": ("paths",),
    "archive/pack_one.py": ("entry", "png", "tiff", "nifti"),
    "archive/parts.py": ("row", "entry", "entry-record"),
    "archive/pieces.py": ("entry", "row", "entry-record"),
    "archive/reading.py": ("entry",),
    "archive/rejoining.py": ("entry",),
    "archive/salvaging.py": ("salvage",),
    "archive/subset.py": ("words",),
    "archive/unfinished.py": ("settings",),
    "codec/adapter_syntax.py": ("adapter",),
    "codec/bytesio.py": ("codestream", "adapter"),
    "codec/codestream.py": ("codestream",),
    "codec/decoder.py": ("codestream",),
    "codec/prediction.py": ("codestream",),
    "container/bag.py": ("bag",),
    "container/fs.py": ("row", "entry"),
    "container/index.py": ("index",),
    "container/layout.py": ("shard", "row"),
    "container/reader.py": ("shard",),
    "container/scan.py": ("shard", "salvage"),
    "entropy/range_coder.py": ("codestream", "adapter"),
    "images/bmp.py": ("bmp", "outline"),
    "images/cutting.py": ("outline", "outline-chunk"),
    "images/deflate/differences.py": ("differences", "deflate"),
    "images/deflate/matcher.py": ("differences", "deflate"),
    "images/deflate/parameters.py": ("png", "gzip"),
    "images/deflate/parser.py": ("deflate",),
    "images/deflate/recipe.py": ("recipe", "png"),
    "images/dicom.py": ("dicom", "outline"),
    "images/dicom_coded.py": ("dicom-coded", "recipe"),
    "images/dicom_items.py": ("dicom-coded",),
    "images/dicom_rle.py": ("frame-rle", "dicom-coded"),
    "images/geometry.py": ("geometry",),
    "images/gzip_chain.py": ("gzip", "recipe"),
    "images/gzip_file.py": ("gzip",),
    "images/jpeg2000.py": ("frame-jpeg-2000", "dicom-coded"),
    "images/jpeg_lossless.py": ("frame-jpeg", "dicom-coded"),
    "images/jpeg_ls.py": ("frame-jpeg-ls", "dicom-coded"),
    "images/jpeg_streams.py": ("jpeg-streams", "jpegs-made"),
    "images/layout.py": ("recipe", "piece"),
    "images/members.py": ("gzip", "zip", "recipe"),
    "images/nifti.py": ("nifti", "outline"),
    "images/npy.py": ("npy", "outline"),
    "images/nrrd.py": ("nrrd",),
    "images/outline.py": ("outline", "outline-chunk"),
    "images/pieces.py": ("piece", "outline"),
    "images/png.py": ("png",),
    "images/pnm.py": ("pnm", "outline"),
    "images/splice.py": ("recipe", "piece"),
    "images/streams.py": ("gzip", "zip", "dicom"),
    "images/tiff_codecs.py": ("tiff", "piece"),
    "images/tiff_encoders.py": ("tiff", "piece"),
    "images/tiff_packed.py": ("tiff", "piece"),
    "images/tiff_ifd.py": ("tiff", "jpeg-tables"),
    "images/tiff_jpeg.py": ("jpeg-tables", "jpegs-made"),
    "images/tiff_lzw.py": ("packed-block",),
    "images/zarr_blocks.py": ("zarr-chunk", "zarr-zip", "piece"),
    "images/zarr_chunk.py": ("zarr-chunk", "outline-chunk"),
    "images/zarr_codecs.py": ("zarr-chunk", "zarr-zip"),
    "images/zarr_metadata.py": ("zarr-metadata", "zarr-chunk"),
    "images/zarr_zip.py": ("zarr-zip", "outline"),
    "images/zip_file.py": ("zip",),
    "model/adapter.py": ("adapter",),
    "model/weights.py": ("model",),
}

#: Modules with such calls that need no target, and why.
TRUSTED: dict[str, str] = {
    "access/zarr_codec.py": "makes a buffer of what chunk_frame has checked",
    "access/zarr_store.py": "makes a buffer of what the archive has checked",
    "archive/foreign.py": "the child process: its requests come from its parent, through a pipe of their own",
    "archive/staging.py": "a round trip of its own settings; what it finds is read by unfinished",
    "archive/worth.py": "a round trip of its own verdict; tests/unit/archive/test_worth.py breaks it",
    "codec/encoder.py": "digests that a model has of itself",
    "model/catalogue.py": "records that are part of the package",
    "training/folder.py": "settings as unfinished reads them; tests/unit/training breaks them",
}
