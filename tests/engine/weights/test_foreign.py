"""Files that are known and not run are named by one tensor or key, whatever else they hold."""

from __future__ import annotations

import pytest

from engine.errors import LayoutError
from engine.gguf.reader import open_gguf
from engine.weights.foreign import check_known
from tests.standins.published import antirez_keys, mtp, mtp_keys, trunk
from tests.standins.write import Entry, Key, write


def checked(folder, keys, entries):
    write(folder / "m.gguf", keys, entries)
    with open_gguf(folder / "m.gguf") as file:
        check_known(file)


@pytest.mark.parametrize(
    "name",
    [
        "blk.7.attn_kv_latent.weight", "hc_head_fn", "hc_head_base", "hc_head_scale",
        "blk.0.attn_sinks", "blk.2.ffn_gate_tid2eid", "blk.41.hc_attn_fn", "blk.41.hc_ffn_base",
        "blk.4.attn_compressor_ape", "blk.4.indexer_compressor_ape",
    ],
)  # fmt: skip
def test_one_name_of_the_first_converters_is_enough(tmp_path, name):
    with pytest.raises(LayoutError, match=f"^m.gguf: {name}: .*found the early naming"):
        checked(tmp_path, antirez_keys(), [Entry(name, "F32", (4,))])


@pytest.mark.parametrize("architecture", ["deepseek41", "deepseek41-dspark", "deepseek2"])
def test_an_architecture_that_is_known_is_described(tmp_path, architecture):
    with pytest.raises(LayoutError, match=rf"found '{architecture}' \(.*D"):
        checked(tmp_path, [Key("general.architecture", "str", architecture)], [])


def test_published_names_of_today_are_not_taken_for_others(tmp_path):
    checked(tmp_path, antirez_keys(), trunk())
    checked(tmp_path, mtp_keys(), mtp())
    # A key that is no string is the business of whoever reads it.
    checked(tmp_path, [Key("general.architecture", "u32", 4)], [])
