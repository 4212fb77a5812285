"""Models in several files: parts lie beside the first one and agree with each other."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from engine.errors import GGUFError
from engine.gguf.reader import open_gguf
from tests.engine.gguf.corpus import ARCH, U16, U32, build, info, kv, text, u32

NAME = "m-{:05d}-of-{:05d}.gguf"


def part(no, count, names, total=None, extra=()):
    keys = [ARCH, kv("split.no", U16, no.to_bytes(2, "little")),
            kv("split.count", U16, count.to_bytes(2, "little")), *extra]  # fmt: skip
    if total is not None:
        keys.append(kv("split.tensors.count", U32, u32(total)))
    infos = tuple(info(name, (8,), offset=32 * i) for i, name in enumerate(names))
    data = b"".join(bytes([no]) * 32 for _ in names)
    return build(tuple(keys), infos, data)


@pytest.fixture
def folder(tmp_path):
    for no, names in enumerate((["a"], ["b", "c"], ["d"])):
        (tmp_path / NAME.format(no + 1, 3)).write_bytes(part(no, 3, names, 4))
    return tmp_path


def refuse(path, *words):
    with pytest.raises(GGUFError) as caught:
        open_gguf(path)
    for word in words:
        assert word in str(caught.value)


def test_parts_are_merged(folder):
    with open_gguf(folder / NAME.format(1, 3)) as file:
        assert list(file.tensors) == ["a", "b", "c", "d"]
        assert [int(t.data[0]) for t in file.tensors.values()] == [0, 1, 1, 2]
        found = file.identity
    assert [p.path.name for p in found.parts] == [NAME.format(i, 3) for i in (1, 2, 3)]
    assert found.size == sum(p.stat().st_size for p in folder.iterdir())
    assert found.unchanged() and len(found.sha256()) == 64
    (folder / NAME.format(3, 3)).unlink()
    assert not found.unchanged()


def test_identity_of_a_split_model_follows_the_weights_of_every_part(folder):
    with open_gguf(folder / NAME.format(1, 3)) as file:
        before = file.identity
    first, last = before.sampled_sha256(), folder / NAME.format(3, 3)
    data = last.read_bytes()
    last.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with open_gguf(folder / NAME.format(1, 3)) as file:
        assert file.identity.header_sha256 == before.header_sha256
        assert file.identity.sampled_sha256() != first


def test_parts_written_by_the_gguf_package(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "w.gguf", "deepseek4", split_max_tensors=2)
    for i in range(5):
        writer.add_tensor(f"t{i}", np.full(8, i, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    with open_gguf(tmp_path / "w-00001-of-00003.gguf") as file:
        assert [t.data.view("<f4")[0] for t in file.tensors.values()] == [0, 1, 2, 3, 4]


def test_a_split_of_one_part_is_a_plain_file(tmp_path):
    path = tmp_path / "any-name.gguf"
    path.write_bytes(part(0, 1, ["a"], 1))

    with open_gguf(path) as file:
        assert list(file.tensors) == ["a"] and not file.identity.parts


def test_part_missing(folder):
    (folder / NAME.format(2, 3)).unlink()

    refuse(folder / NAME.format(1, 3), NAME.format(2, 3), "no such file")


def test_not_the_first_part(folder):
    refuse(folder / NAME.format(2, 3), "the first part", "part 00002")


def test_name_does_not_fit(folder):
    (folder / NAME.format(1, 3)).rename(folder / "model.gguf")
    refuse(folder / "model.gguf", "-00001-of-00003.gguf", "model.gguf")
    (folder / "model.gguf").rename(folder / NAME.format(1, 4))
    refuse(folder / NAME.format(1, 4), "-00001-of-00003.gguf")


def test_parts_do_not_agree(folder):
    first, second = folder / NAME.format(1, 3), folder / NAME.format(2, 3)
    good = second.read_bytes()
    for other, word in (
        (part(2, 3, ["b", "c"]), "split.no: expected 1, found 2"),
        (part(1, 2, ["b", "c"]), "split.count: expected 3, found 2"),
        (part(1, 3, ["a", "c"]), "tensor 'a'"),
        (part(1, 3, ["b"]), "split.tensors.count: expected 4 tensors, found 3"),
        (build((ARCH,), (info("b", (8,)),), bytes(32)), "split.no: expected 1, found None"),
        (good[:-1], "left in the file"),
    ):
        second.write_bytes(other)
        refuse(first, word)


@pytest.mark.parametrize(
    ("keys", "word"),
    [
        ((kv("split.count", U16, b"\xff\xff"),), "at most 1024"),
        ((kv("split.count", 8, text("../../../etc/passwd")),), "split.count: expected a count"),
        ((kv("split.count", 5, b"\xff" * 4),), "split.count: expected a count"),
        ((kv("split.count", U16, b"\2\0"),), "split.no: expected 0, found None"),
        ((kv("split.count", U16, b"\2\0"), kv("split.no", 8, text("x"))), "split.no: expected 0"),
    ],
)
def test_bad_split_keys(tmp_path, keys, word):
    path = tmp_path / NAME.format(1, 2)
    path.write_bytes(build(keys))

    refuse(path, word)
