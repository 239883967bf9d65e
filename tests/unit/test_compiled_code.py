"""Where compiled loops go when neither the package nor the home can be written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import callic_archive


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> set[Path]:
    """Folders that count as read-only (the tests may run as root, whom modes do not stop)."""
    folders: set[Path] = set()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) not in folders)
    return folders


def test_a_writable_package_needs_nothing(tmp_path: Path, closed: set[Path]) -> None:
    environment = {"HOME": str(tmp_path)}
    callic_archive.place_compiled_code(environment, tmp_path / "package")
    assert "NUMBA_CACHE_DIR" not in environment


def test_a_writable_home_serves_a_read_only_package(tmp_path: Path, closed: set[Path]) -> None:
    closed.add(tmp_path / "package")
    environment = {"HOME": str(tmp_path)}
    callic_archive.place_compiled_code(environment, tmp_path / "package")
    assert "NUMBA_CACHE_DIR" not in environment


def test_with_neither_a_folder_of_the_users_own_is_named(tmp_path: Path, closed: set[Path]) -> None:
    closed |= {tmp_path / "package", tmp_path}
    environment = {"HOME": str(tmp_path)}
    callic_archive.place_compiled_code(environment, tmp_path / "package")
    assert environment["NUMBA_CACHE_DIR"].endswith(f"callic-archive-compiled-{os.getuid()}")


def test_the_users_own_choice_wins(tmp_path: Path, closed: set[Path]) -> None:
    closed |= {tmp_path / "package", tmp_path}
    environment = {"HOME": str(tmp_path), "NUMBA_CACHE_DIR": "/elsewhere"}
    callic_archive.place_compiled_code(environment, tmp_path / "package")
    assert environment["NUMBA_CACHE_DIR"] == "/elsewhere"
