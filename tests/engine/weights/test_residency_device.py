"""A plan carried out on a fake device: what is registered, read in place and given back."""

from __future__ import annotations

import mmap
from types import SimpleNamespace

import numpy as np
import pytest

from engine.ops.cuda.device import pages
from engine.ops.cuda.device import residency as on_device
from engine.ops.cuda.device.pages import MADV_PAGEOUT
from engine.weights.residency import GIB, Settings


class FakeDevice:
    """A device that shares the host's memory and reads pages that nobody registered."""

    unified = True

    def __init__(self):
        self.attributes = {"host_register": 1, "read_only_register": 0, "pageable_access": 1}
        self.driver = self
        self.registered = []
        self.relief = []

    def free_bytes(self):
        return 118 * GIB

    def attempt(self, name, start, n_bytes, flags):
        self.registered.append(n_bytes)
        return 0, None

    def call(self, name, start, flags):
        return start + (1 << 40)

    def drop(self, name, host):
        self.registered.pop()


@pytest.mark.parametrize(("free", "registered"), [(1 << 30, True), (1 << 20, False)])
def test_no_more_is_registered_than_the_host_can_pin(tmp_path, monkeypatch, free, registered):
    size = 4 << 20
    (tmp_path / "m").write_bytes(bytes(size))
    memory = SimpleNamespace(available=free)
    monkeypatch.setattr(on_device.psutil, "virtual_memory", lambda: memory)
    with open(tmp_path / "m", "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    data = np.frombuffer(mapped, np.uint8)
    tensor = SimpleNamespace(
        name="blk.0.ffn_up_exps.weight",
        data=data,
        n_bytes=size,
        format=SimpleNamespace(native=True),
    )
    device = FakeDevice()

    shown = []

    def bar(total):
        shown.append(total)
        return lambda n_bytes: shown.append(-n_bytes)

    monkeypatch.setattr(pages, "POPULATE", 1 << 20)
    held = on_device.FileResidency(device, [tensor], Settings(mode="mapped"), bar=bar)

    assert shown == ([] if registered else [size, *[-(1 << 20)] * 4])
    assert device.registered == [size] * registered
    assert held.place(tensor).kind == "mapped"
    address = data.ctypes.data + registered * (1 << 40)
    assert held.place(tensor).address == address, "unregistered pages are read where they lie"
    said = " ".join(held.notices())
    assert ("WARNING: memory: expected at most" in said) is not registered
    assert ("not registered, since at most" in said) is not registered
    held.close()
    assert not device.registered


class WatchedMapping(mmap.mmap):
    """Keeps what the system is told of its pages."""

    told: tuple = ()

    def madvise(self, option, start, length):
        self.told = (*self.told, (option, start, length))


@pytest.mark.parametrize("unified", [True, False])
def test_pages_behind_copies_are_given_back_where_memory_is_shared(tmp_path, unified):
    page = mmap.PAGESIZE
    (tmp_path / "m").write_bytes(bytes(9 * page))
    with open(tmp_path / "m", "rb") as file:
        mapped = WatchedMapping(file.fileno(), 0, access=mmap.ACCESS_READ)
    data = np.frombuffer(mapped, np.uint8)

    def tensor(name, start, stop):
        native = SimpleNamespace(native=True)
        part = data[start:stop]
        return SimpleNamespace(name=name, data=part, n_bytes=len(part), format=native)

    # Neither begins or ends at a page; the last is read in place.
    first = tensor("blk.0.attn_q_a.weight", 100, 3 * page + 100)
    small = tensor("output.weight", 3 * page + 100, 3 * page + 200)
    experts = tensor("blk.0.ffn_up_exps.weight", 4 * page, 9 * page)
    device = FakeDevice()
    device.unified = unified
    settings = Settings(mode="hybrid", budget=4 * page)
    held = on_device.FileResidency(device, [first, small, experts], settings)

    placed = [held.place(each).kind for each in (first, small, experts)]

    assert placed == ["device", "device", "mapped"]
    given_back = tuple(each for each in mapped.told if each[0] == MADV_PAGEOUT)
    assert given_back == ((MADV_PAGEOUT, page, 2 * page),) * unified


def test_under_pressure_everything_but_what_is_read_in_place_is_given_back(tmp_path):
    page = mmap.PAGESIZE
    (tmp_path / "m").write_bytes(bytes(9 * page))
    with open(tmp_path / "m", "rb") as file:
        mapped = WatchedMapping(file.fileno(), 0, access=mmap.ACCESS_READ)
    data = np.frombuffer(mapped, np.uint8)

    def tensor(name, start, stop):
        return SimpleNamespace(
            name=name, data=data[start:stop], n_bytes=stop - start,
            format=SimpleNamespace(native=True),
        )  # fmt: skip

    device = FakeDevice()
    device.unified = True
    tensors = [
        tensor("output.weight", 0, 3 * page),
        tensor("blk.0.ffn_up_exps.weight", 4 * page, 6 * page),
    ]
    settings = Settings(mode="hybrid", budget=3 * page)
    held = on_device.FileResidency(device, tensors, settings)
    (give_back,) = device.relief
    mapped.told = ()

    give_back()

    assert mapped.told == ((MADV_PAGEOUT, 0, 4 * page), (MADV_PAGEOUT, 6 * page, 3 * page))
    held.close()
    assert device.relief == []
