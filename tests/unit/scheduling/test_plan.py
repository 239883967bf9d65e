"""How work is cut into batches, and who gets it."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from callic_archive.archive.packing import Group
from callic_archive.archive.scan import Source
from callic_archive.cli.resources import resources_of
from callic_archive.errors import NoSuchDevice, UsageError
from callic_archive.scheduling import devices
from callic_archive.scheduling.cluster import worker_environment
from callic_archive.scheduling.devices import gpu_names, require_gpus
from callic_archive.scheduling.pack import Resources
from callic_archive.scheduling.plan import Costs, cluster_pays, halves, plan_batches
from callic_archive.scheduling.signals import StopSignals


def source(name: str, size: int) -> Source:
    return Source(name, f"/data/{name}", "file", 0o644, 0, size)


def group(name: str, size: int) -> Group:
    return Group((source(name, size),), ())


COSTS = Costs(image_second_per_mb=1.0, stored_second_per_mb=0.1, second_per_file=0.0)


def test_batches_are_of_about_equal_length_and_lose_nothing() -> None:
    groups = [group(f"{number:03}.npy", 1_000_000) for number in range(200)]
    plan = plan_batches(groups, workers=2, costs=COSTS)
    assert plan.seconds == pytest.approx(200)
    names = [s.path for batch in plan.batches for s in batch.sources]
    assert sorted(names) == sorted(s.path for g in groups for s in g.sources)
    lengths = [len(batch.sources) for batch in plan.batches]
    assert max(lengths) <= 30
    assert min(lengths[:-1]) >= 20


def test_few_files_still_give_every_worker_several_batches() -> None:
    plan = plan_batches([group(f"{n}.npy", 4_000_000) for n in range(16)], workers=4, costs=COSTS)
    assert len(plan.batches) == 16


def test_a_very_long_file_starts_first() -> None:
    groups = [group(f"{number}.npy", 2_000_000) for number in range(9)] + [group("z.npy", 900_000_000)]
    plan = plan_batches(groups, workers=2, costs=COSTS)
    assert [s.path for s in plan.batches[0].sources] == ["z.npy"]


def test_candidates_for_equality_are_never_parted() -> None:
    twins = Group(tuple(source(f"{n}.npy", 50_000_000) for n in range(4)), ())
    plan = plan_batches([group("a.npy", 1), twins, group("b.npy", 1)], workers=8, costs=COSTS)
    assert any({s.path for s in twins.sources} <= {s.path for s in b.sources} for b in plan.batches)


@pytest.mark.parametrize(
    ("name", "expected"), [("a.npy", 2.0), ("a.TIF", 2.4), ("a.png", 4.0), ("I0001", 2.0), ("a.csv", 0.2)]
)
def test_costs_follow_the_kind_of_file(name: str, expected: float) -> None:
    assert COSTS.of(source(name, 2_000_000)) == pytest.approx(expected)


def test_halving_ends_at_single_files() -> None:
    (batch,) = plan_batches([group(f"{n}", 1) for n in range(5)], workers=1, costs=COSTS).batches
    rounds = [batch]
    while any(len(b.sources) > 1 for b in rounds):
        rounds = [part for b in rounds for part in halves(b)]
    assert [b.sources[0].path for b in rounds] == ["0", "1", "2", "3", "4"]
    assert halves(rounds[0]) == rounds[:1]


def test_a_cluster_is_started_only_for_enough_work() -> None:
    small = plan_batches([group("a.npy", 100_000)], workers=2, costs=COSTS)
    large = plan_batches([group(f"{n}.npy", 9_000_000) for n in range(9)], workers=2, costs=COSTS)
    assert not cluster_pays(small, 2)
    assert cluster_pays(large, 2)
    assert not cluster_pays(large, 1)


def test_threads_of_all_workers_fit_the_cores() -> None:
    cores = len(os.sched_getaffinity(0))
    for workers in range(1, cores + 3):
        assert Resources(workers=workers).threads == max(1, cores // workers)
    assert worker_environment(3)["OPENBLAS_NUM_THREADS"] == "3"
    assert worker_environment(3)["NUMBA_NUM_THREADS"] == "3"
    assert worker_environment(3)["OMP_WAIT_POLICY"] == "PASSIVE"


# -- devices -----------------------------------------------------------------------------------------------------


def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "maybe_gpu", lambda: False)


def test_a_gpu_that_is_not_there_is_an_error_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    no_gpu(monkeypatch)
    with pytest.raises(NoSuchDevice, match="this machine has none"):
        resources_of(device=None, gpus=1, workers=None, scheduler=None)
    with pytest.raises(NoSuchDevice):
        resources_of(device="cuda", gpus=None, workers=None, scheduler=None)
    assert NoSuchDevice.exit_code == 4
    assert resources_of(device=None, gpus=None, workers=None, scheduler=None).gpus == 0


def test_gpus_that_are_there_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "gpu_count", lambda: 2)
    assert resources_of(device=None, gpus=None, workers=None, scheduler=None).processes == 2
    assert resources_of(device="cuda", gpus=None, workers=None, scheduler=None).gpus == 2
    assert resources_of(device=None, gpus=1, workers=None, scheduler=None).gpus == 1
    assert resources_of(device="cpu", gpus=None, workers=3, scheduler=None) == Resources(workers=3)
    with pytest.raises(NoSuchDevice, match="ask for --gpus 2"):
        require_gpus(3)


def test_a_driver_without_a_usable_torch_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "maybe_gpu", lambda: True)
    monkeypatch.setattr(devices, "gpu_count", lambda: 0)
    with pytest.raises(NoSuchDevice, match="torch cannot use it"):
        require_gpus(1)


def test_options_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(UsageError):
        resources_of(device="cpu", gpus=1, workers=None, scheduler=None)
    with pytest.raises(UsageError):
        resources_of(device=None, gpus=1, workers=2, scheduler=None)


def test_workers_get_one_gpu_each_of_those_that_are_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpu_names(2) == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-8f2c, 3,MIG-77aa")
    assert gpu_names(2) == ["GPU-8f2c", "3"]


# -- signals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_a_signal_asks_for_a_stop_once_and_handlers_are_given_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    asked: list[str] = []
    with StopSignals(lambda: asked.append("stop")) as stop:
        assert stop.requested is None
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
        assert stop.requested == number.name
    assert asked == ["stop"]
    assert signal.getsignal(number) is before


def test_threads_leave_signals_alone() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen: list[object] = []

    def body() -> None:
        with StopSignals(lambda: None):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [before]


def test_only_this_package_reaches_for_dask() -> None:
    package = Path(devices.__file__).parents[1]
    for path in package.rglob("*.py"):
        if path.parent.name != "scheduling":
            text = path.read_text()
            assert "import dask" not in text, path
            assert "from distributed" not in text, path
