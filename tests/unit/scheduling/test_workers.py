"""Real worker processes: results, deaths, poison files, stops."""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from callic_archive.archive.reading import Archive
from callic_archive.archive.scan import Problem
from callic_archive.archive.unpacking import Restored
from callic_archive.container.bag import validate_bag
from callic_archive.errors import ClusterFailed, MissingPath, OutOfSpace, UsageError, WorkerKiller
from callic_archive.scheduling.cluster import local_cluster, running_cluster, scheduler_address
from callic_archive.scheduling.pack import Resources
from callic_archive.scheduling.read import unpack
from callic_archive.scheduling.run import Outcome, run_on_workers
from tests.doubles import DeflatePlan
from tests.trees import open_archive, pack_tree, smooth, snapshot, write_pnm

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    with local_cluster(2, threads=1) as client:
        yield client


def split(batch: tuple[int, ...]) -> list[tuple[int, ...]]:
    middle = len(batch) // 2
    return [part for part in (batch[:middle], batch[middle:]) if part]


def square(batch: tuple[int, ...], watch: object = None) -> list[int]:
    return [number * number for number in batch]


def poisoned(batch: tuple[int, ...], watch: object = None) -> list[int]:
    if 13 in batch:
        os._exit(7)
    return list(batch)


def buggy(batch: tuple[int, ...], watch: object = None) -> list[int]:
    return [1 // (number - 13) + number * 0 + number for number in batch]


def full_disk(batch: tuple[int, ...], watch: object = None) -> list[int]:
    raise OutOfSpace("cannot write: no space left")


def environment(batch: tuple[int, ...], watch: object = None) -> list[object]:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    ignored = all(signal.getsignal(number) is signal.SIG_IGN for number in numbers)
    return [os.environ["OPENBLAS_NUM_THREADS"], ignored]


def run(client: Any, task: Callable[..., Any], count: int = 20, **options: Any) -> list[Outcome[Any, Any]]:
    batches = [tuple(range(start, start + 4)) for start in range(0, count, 4)]
    return list(run_on_workers(client, task, batches, split, **options))


def test_every_batch_comes_back(client: Any) -> None:
    outcomes = run(client, square)
    assert sorted(n for outcome in outcomes for n in outcome.result) == [n * n for n in range(20)]


def test_workers_have_their_threads_and_leave_signals_alone(client: Any) -> None:
    (outcome,) = run(client, environment, count=4)
    assert outcome.result == ["1", True]


def test_a_failure_of_the_machine_ends_the_run(client: Any) -> None:
    with pytest.raises(OutOfSpace, match="no space left"):
        run(client, full_disk)


def test_a_bug_costs_one_item(client: Any) -> None:
    outcomes = run(client, buggy)
    assert [outcome.batch for outcome in outcomes if outcome.result is None] == [(13,)]
    assert sum(len(outcome.batch) for outcome in outcomes) == 20


def test_what_kills_workers_is_found_and_nothing_else_is_lost(client: Any) -> None:
    outcomes = run(client, poisoned)
    assert [outcome.batch for outcome in outcomes if outcome.result is None] == [(13,)]
    done = sorted(n for outcome in outcomes if outcome.result for n in outcome.result)
    assert done == [n for n in range(20) if n != 13]


def test_nothing_new_is_begun_after_a_stop(client: Any) -> None:
    begun: list[int] = []
    outcomes = run(client, square, stopping=lambda: len(begun) > 0, tick=lambda r, w: begun.append(r))
    assert len(outcomes) <= 6


def test_a_scheduler_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("callic_archive.scheduling.cluster.CONNECT_TIMEOUT", 0.5)
    with (
        pytest.raises(ClusterFailed, match="no Dask scheduler answers"),
        running_cluster("tcp://127.0.0.1:9"),
    ):
        pass


@pytest.mark.parametrize("address", ["foo://127.0.0.1:9", "tls://127.0.0.1:9"])
def test_an_address_of_no_use_is_told_at_once(address: str, capfd: pytest.CaptureFixture[str]) -> None:
    begin = time.monotonic()
    with pytest.raises(ClusterFailed, match="no Dask scheduler answers"), running_cluster(address):
        pass
    gc.collect()
    assert time.monotonic() - begin < 10
    assert "Traceback" not in "".join(capfd.readouterr())


def test_addresses_and_scheduler_files(tmp_path: Path) -> None:
    for text in ("tcp://127.0.0.1:8786", "tls://host-1.site:1", "localhost:8786", "tcp://[::1]:8786"):
        assert scheduler_address(text) == text
    file = tmp_path / "scheduler.json"
    file.write_text('{"address": "tcp://10.0.0.1:8786", "workers": {}}')
    assert scheduler_address(str(file)) == "tcp://10.0.0.1:8786"
    for content in ("", "{}", "[]", '{"address": 5}', '{"address": "here"}', "\xff"):
        file.write_bytes(content.encode("latin-1"))
        with pytest.raises(UsageError, match="no scheduler file"):
            scheduler_address(str(file))
    with pytest.raises(UsageError, match="no scheduler file"):
        scheduler_address(str(tmp_path))
    for text in (str(tmp_path / "none.json"), "tcp://host", "host"):
        with pytest.raises(MissingPath, match="neither"):
            scheduler_address(text)


def gpu_of(batch: tuple[int, ...], watch: object = None) -> str:
    time.sleep(0.3)
    return os.environ["CUDA_VISIBLE_DEVICES"]


def test_each_gpu_has_one_process_and_one_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-aa,GPU-bb")
    with local_cluster(9, threads=1, gpus=2) as client:
        assert len(client.nthreads()) == 2
        outcomes = run(client, gpu_of, count=24, gpus=True)
    assert sorted({outcome.result for outcome in outcomes}) == ["GPU-aa", "GPU-bb"]


def test_packing_on_a_cluster_that_runs_already(tmp_path: Path) -> None:
    for number in range(4):
        write_pnm(tmp_path / "tree" / f"{number}.pgm", smooth(60, 60, seed=number))
    with local_cluster(1, threads=1) as client:
        scheduler_file = tmp_path / "scheduler.json"
        client.write_scheduler_file(str(scheduler_file))
        for name, address in (("a", client.scheduler.address), ("b", str(scheduler_file))):
            resources = Resources(scheduler=address)
            done = pack_tree(tmp_path / "tree", tmp_path / f"{name}.callic", resources=resources)
            assert done.problems == []
            assert validate_bag(tmp_path / f"{name}.callic") == []
            with open_archive(tmp_path / f"{name}.callic") as opened:
                assert sum(entry.method == "image" for entry in opened.entries) == 4


def test_packing_on_workers_with_a_poison_image(tmp_path: Path) -> None:
    for number in range(8):
        write_pnm(tmp_path / "tree" / f"{number}.pgm", smooth(60, 60, seed=number))
    plan = DeflatePlan(dies_on=3, raises_on=5)
    begin = time.monotonic()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("callic_archive.scheduling.pack.cluster_pays", lambda *_: True)
        patch.setattr("callic_archive.scheduling.plan.SHORTEST_BATCH", 0.001)
        run_ = pack_tree(tmp_path / "tree", tmp_path / "x.callic", plan=plan, resources=Resources(workers=2))
    assert time.monotonic() - begin < 60
    codes = {Path(problem.path).name: problem.code for problem in run_.problems}
    assert codes == {"3.pgm": "E515", "5.pgm": "E511"}
    assert validate_bag(tmp_path / "x.callic") == []
    assert not list((tmp_path / "x.callic" / "data").glob("*.partial"))
    with open_archive(tmp_path / "x.callic") as opened:
        methods = {entry.path[-5:]: entry.method for entry in opened.entries if entry.kind == "file"}
        assert methods == {f"{n}.pgm": "stored" if n in (3, 5) else "image" for n in range(8)}
        assert_restores(opened)


def assert_restores(opened: Archive) -> None:
    import io

    for entry in opened.entries:
        if entry.kind == "file":
            assert opened.restore(entry, io.BytesIO()) == "bytes"


def test_names_of_one_file_come_back_from_workers_as_one(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for number in range(6):
        write_pnm(tree / f"{number}.pgm", smooth(60, 60, seed=number))
        os.link(tree / f"{number}.pgm", tree / f"again-{number}.pgm")
    done: list[Restored] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("callic_archive.scheduling.pack.cluster_pays", lambda *_: True)
        run = pack_tree(tree, tmp_path / "x.callic", resources=Resources(workers=2))
        patch.setattr("callic_archive.scheduling.read._cluster_pays", lambda *_: True)
        with open_archive(tmp_path / "x.callic") as opened:
            problems = unpack(
                opened,
                opened.entries,
                tmp_path / "out",
                plan=DeflatePlan(),
                overwrite=False,
                resources=Resources(workers=2),
                watch=done.append,
                tick=lambda running, workers: None,
            )
    assert run.problems == problems == [r for r in done if r.problem] == []
    assert len(done) == 12
    assert snapshot(tmp_path / "out" / "tree") == snapshot(tree)
    for number in range(6):
        out = tmp_path / "out" / "tree"
        assert (out / f"{number}.pgm").samefile(out / f"again-{number}.pgm")


def test_another_name_of_a_file_that_ends_workers_is_not_tried_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pnm(tmp_path / "tree" / "a.pgm", smooth(60, 60))
    os.link(tmp_path / "tree" / "a.pgm", tmp_path / "tree" / "b.pgm")
    pack_tree(tmp_path / "tree", tmp_path / "x.callic")
    done: list[Restored] = []

    def killing(crew: object, task: object, batches: Any, on_workers: bool, watch: Any, *_: object) -> None:
        for entry in (entry for batch in batches for entry in batch):
            watch(Restored(entry, None, Problem.of(entry.path, WorkerKiller("ended"), kept=False)))

    monkeypatch.setattr("callic_archive.scheduling.read._Crew.run", killing)
    with open_archive(tmp_path / "x.callic") as opened:
        unpack(
            opened,
            opened.entries,
            tmp_path / "out",
            plan=DeflatePlan(),
            overwrite=False,
            resources=Resources(workers=1),
            watch=done.append,
            tick=lambda running, workers: None,
        )
    assert [(r.entry.path, r.problem and r.problem.code) for r in done] == [
        ("tree/a.pgm", "E515"),
        ("tree/b.pgm", "E515"),
    ]
    assert not list((tmp_path / "out" / "tree").iterdir())
