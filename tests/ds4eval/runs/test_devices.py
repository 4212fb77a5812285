"""Several GPUs: lists of devices, who opens which, and what actors of a Ray cluster ask for."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import pytest

from ds4eval.answering import engine as answering
from ds4eval.answering.jobs import ProcessPool
from ds4eval.answering.ray_jobs import Actor, RayPool
from ds4eval.cli import cli
from ds4eval.commands import run as run_command
from engine.errors import BackendError
from engine.tooling.exits import run_program
from tests.ds4eval.fakes import FakeBackend, jobs


@dataclass(frozen=True)
class Options:
    device: int = 0
    backend: str = "cuda"
    threads: int | None = 2


@dataclass(frozen=True)
class Spec:
    options: Options = field(default_factory=Options)


class OnDevice(FakeBackend):
    """Says in its answer which device it opened."""

    def __init__(self, device: int) -> None:
        super().__init__()
        self.device = device

    def answer(self, job, stop=lambda: False):
        made = yield from super().answer(job, stop)
        return replace(made, output=f"device {self.device}")


def open_on_device(spec: Spec) -> OnDevice:
    return OnDevice(spec.options.device)


def requested(*arguments):
    """The request that a command line makes; nothing is opened."""
    made = []
    original = run_command.check_request

    def keep(request):
        original(request)
        made.append(request)
        raise SystemExit(0)

    run_command.check_request = keep
    try:
        run_program(cli, "ds4-eval", list(arguments))
    except SystemExit:
        pass
    finally:
        run_command.check_request = original
    return made[0].model if made else None


def test_a_list_of_devices_is_a_worker_for_each():
    model = requested("--cuda", "--device", "0,2,5")
    assert (model.device, model.devices, model.jobs) == (0, (0, 2, 5), 3)
    assert requested("--cuda", "--device", "0,1", "--jobs", "4").jobs == 4
    one = requested("--cuda", "--device", "1")
    assert (one.device, one.jobs) == (1, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cuda", "--device", "0,0"], "--device: expected different numbers, found '0,0'"),
        (["--cuda", "--device", "0,x"], "--device: expected a whole number, found 'x'"),
        (["--cuda", "--device", "0,64"], "--device: expected 0 to 63, found 64"),
        (["--device", "0,1"], "--device: expected with --backend cuda, found cpu"),
        (["--cuda", "--device", "0,1", "--ray", "local"], "--device: expected without --ray"),
    ],
)
def test_bad_lists_are_refused(options, message, capsys):
    assert run_program(cli, "ds4-eval", options) == 2
    assert message in capsys.readouterr().err


def test_devices_are_dealt_round_and_a_replaced_worker_keeps_its_own():
    place = [answering.on_device(Spec(), i, (3, 7)).options.device for i in range(4)]
    assert place == [3, 7, 3, 7]
    assert answering.on_device(Spec(), 1, ()).options.device == 0
    pool = ProcessPool(
        Spec(), 2, open_on_device, lambda spec, i: answering.on_device(spec, i, (3, 7))
    )
    try:
        said = answers(pool, jobs(2))
        assert sorted(said) == ["device 3", "device 7"]
        lost = pool._workers[1]
        slot = lost.slot
        lost.process.kill()
        lost.process.join()
        while pool._workers[-1].number == 2:
            pool.poll(0.2)
        assert [worker.slot for worker in pool._workers] == [0, slot]
        assert sorted(answers(pool, jobs(2))) == ["device 3", "device 7"]
    finally:
        pool.close()


def answers(pool, todo) -> list[str]:
    # Both workers are ready before both are asked, so that each answers once.
    while not all(worker.ready for worker in pool._workers):
        pool.poll(0.2)
    for job in todo:
        pool.submit(job)
    said = []
    while len(said) < len(todo):
        said += [o.answer.output for o in pool.poll(0.2) if o.answer is not None]
    return said


class FakeRay:
    """What a pool asks of Ray."""

    def __init__(self, **resources: float) -> None:
        self.resources = resources
        self.asked: list[dict] = []
        self.specs: list[Spec] = []

    def is_initialized(self) -> bool:
        return True

    def cluster_resources(self) -> dict[str, float]:
        return self.resources

    def remote(self, **asked):
        def made(cls):
            def start(spec, factory):
                self.asked.append(asked)
                self.specs.append(spec)
                return SimpleNamespace()

            return SimpleNamespace(remote=start)

        return made

    def kill(self, actor) -> None: ...


@pytest.mark.parametrize(
    ("backend", "resources", "n", "gpus"),
    [
        ("cuda", {"CPU": 32.0, "GPU": 4.0}, 4, 1),
        ("cuda", {"CPU": 4.0, "GPU": 8.0}, 2, 1),
        ("cpu", {"CPU": 8.0, "GPU": 4.0}, 4, 0),
    ],
)
def test_an_actor_asks_for_the_gpu_that_it_uses(monkeypatch, backend, resources, n, gpus):
    ray = FakeRay(**resources)
    monkeypatch.setitem(sys.modules, "ray", ray)
    pool = RayPool(Spec(Options(backend=backend)), "auto", 1, open_on_device)
    assert pool.free() == n and len(ray.asked) == n
    assert {(a["num_cpus"], a["num_gpus"], a["max_restarts"]) for a in ray.asked} == {(2, gpus, 0)}
    pool.close()


def test_a_cluster_without_gpus_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", FakeRay(CPU=8.0))
    with pytest.raises(BackendError, match="expected a cluster with GPUs"):
        RayPool(Spec(), "auto", 1, open_on_device)


def test_inside_an_actor_the_gpu_that_it_was_given_is_number_0():
    opened = Actor(Spec(Options(device=3)), open_on_device)._backend
    assert opened.device == 0
    assert Actor(Spec(Options(device=3, backend="cpu")), open_on_device)._backend.device == 3
