"""The table of formats: what is counted, and how it is shown."""

from __future__ import annotations

from pathlib import Path

from callic_archive.archive.context import ContextFinder, read_beside
from pipelines.benchmarks.formats import OUTCOMES, Fate, grids, kind, make_tree, outcome, summary, why

FATES = (
    Fate("a.png", "PNG", "bytes", 1000, 400, None, False),  # the first: nobody knows when it began
    Fate("b.png", "PNG", "content", 3000, 500, 0.5, False, reason="content"),
    Fate("c.png", "PNG", "bytes", 1000, 0, 0.1, True),
    Fate("d.png", "PNG", "named", 10, 10, 0.5, False, ("E101", "it ends too early"), "E101"),
    Fate("e.png", "PNG", "verbatim", 20, 10, 0.0, False, reason="variant"),
    Fate("f.png", "PNG", "verbatim", 30, 10, 0.0, False, reason="variant"),
    Fate("notes", "no image", "verbatim", 100, 50, 0.0, False, reason="no-image"),
)


def test_outcomes_bytes_and_seconds_are_counted_by_format():
    found = summary(FATES)
    assert list(found) == ["PNG", "no image"]
    png = found["PNG"]
    assert png["outcomes"] == {"bytes": 2, "content": 1, "verbatim": 2, "named": 1}
    assert (png["files"], png["repeats"], png["source_bytes"], png["stored_bytes"]) == (6, 1, 5060, 930)
    assert (png["timed_bytes"], png["seconds"]) == (3060, 1.0)  # neither the first nor the one that repeats
    assert png["codes"] == {"E101": 1}
    assert list(png["reasons"]) == ["variant", "content", "E101"]  # the most frequent first
    assert png["reasons"]["variant"] == {"files": 2, "source_bytes": 50, "stored_bytes": 20}


def test_the_table():
    result = {
        "codec": "test", "formats": summary(FATES), "left_out": 0, "limit_megapixels": None, "verified": True,
        "unpacked": True, "restored": {"problems": [], "content_that_differs": 1},
    }  # fmt: skip
    grid, reasons = grids({"result": result})
    assert len(grid.columns) == 2 + len(OUTCOMES) + 5
    assert all(len(row) == len(grid.columns) for row in grid.rows)
    png, _, everything = grid.rows
    assert png[0] == "PNG"
    assert png[grid.columns.index("exact")] == "67 %"
    assert png[grid.columns.index("ratio")] == "5.44"
    assert everything[0] == "all"
    assert everything[1] == "7"
    assert "codec of the tests" in grid.note
    assert [row[:3] for row in reasons.rows] == [
        ("PNG", "variant", "2"), ("PNG", "content", "1"), ("PNG", "E101", "1"), ("no image", "no-image", "1"),
    ]  # fmt: skip
    assert all(len(row) == len(reasons.columns) and row[-1] for row in reasons.rows)
    assert "nothing differs" in grid.note.replace("\n", " ")
    result["restored"] = {"problems": ["a: bytes differ"], "content_that_differs": 0}
    result["unpacked"] = False
    assert "Restored: 1 differs" in grids({"result": result})[0].note
    assert "FAILED" in grids({"result": result})[0].note


def test_what_files_claim_to_be(tmp_path: Path):
    contexts = ContextFinder(read_beside)
    claims = {
        "a.tif": (b"II*\0\x08\0\0\0\1\0\3\1\3\0\1\0\0\0\5\0\0\0\0\0\0\0", "TIFF, LZW"),
        "b.tif": (b"II*\0\xff\xff\0\0", "TIFF, broken"),
        "c.jpg": (b"\xff\xd8\xff\xe0", "JPEG"),
        "d": (b"", "no image"),
        "e.pgm": (b"P5 2 2 255\nabcd", "PNM"),
    }
    for name, (data, claim) in claims.items():
        (tmp_path / name).write_bytes(data)
        assert kind(tmp_path / name, name, contexts) == claim, name


def test_what_became_of_them_and_why():
    entry = {"kind": "stored", "fidelity": "bytes"}
    for more, became, reason in (
        ({"reason": "not-smaller"}, "not smaller", "not-smaller"),
        ({"reason": "lossy"}, "verbatim", "lossy"),
        ({}, "verbatim", "no-image"),
        ({"kind": "pnm"}, "bytes", ""),
        ({"kind": "pnm", "fidelity": "content"}, "content", "content"),
        ({"kind": "jpeg"}, "JPEG XL", ""),
        ({"problem": {"code": "E101"}}, "named", "E101"),
    ):
        assert outcome({**entry, **more}) == became
        assert why({**entry, **more}, became) == reason


def test_the_tree_has_what_no_set_has(tmp_path: Path, monkeypatch):
    data = tmp_path / "data" / "eval"
    data.mkdir(parents=True)
    (data / "small.pgm").write_bytes(b"P5 20 20 255\n" + bytes(400))
    (data / "large.pgm").write_bytes(b"P5 200 200 255\n" + bytes(40000))
    monkeypatch.setattr("pipelines.benchmarks.formats.shared_data", lambda: tmp_path / "data")
    files, left_out = make_tree(tmp_path / "tree", ("eval",), 0.01)
    assert left_out == 1
    assert files == len([p for p in (tmp_path / "tree").rglob("*") if p.is_file() and not p.is_symlink()])
    assert not (tmp_path / "tree/eval/large.pgm").exists()
    assert (tmp_path / "tree/extras/kept").stat().st_nlink == 2
    assert (tmp_path / "tree/extras/dangling").is_symlink()
