"""A llama.cpp server and our engine on one file, asked the same suite: the same greedy replies."""

from __future__ import annotations

import re

from ds4eval.records.replay import read_run
from engine.text import special
from tests.ds4eval.test_run import call
from tests.engine.models import model_file
from tests.llama_server import MARKS, llama_server

pytestmark = MARKS


def cleaned(text: str) -> str:
    """Text without what llama.cpp's server does not send: control tokens, unfinished characters."""
    tokens = "|".join(map(re.escape, sorted(special.KNOWN | {"<｜▁pad▁｜>"})))
    return re.sub(f"{tokens}|�", "", text)


def test_server_with_the_same_file_gives_the_same_replies(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # float32 weights: with quantised ones llama.cpp rounds activations and near ties fall apart.
    model = model_file(tmp_path, "nano", "f32")
    short = ["--suite", "nano", "--limit", "6", "-n", "32", "--nothink", "--plain"]
    with llama_server(model, tmp_path / "server.log") as url:
        remote = ["--base-url", url, "--api", "completions"]
        assert call(*short, *remote, "--out", "theirs") == 0
    exact = ["--activations", "f32", "--kv", "f32", "-m", model, "-t", "1"]
    assert call(*short, *exact, "--out", "ours") == 0
    ours, theirs = read_run(tmp_path / "ours").samples, read_run(tmp_path / "theirs").samples
    assert len(ours) == len(theirs) == 6
    for mine, other in zip(ours, theirs):
        assert (mine.source, mine.id) == (other.source, other.id)
        assert mine.question_sha256 == other.question_sha256
        # It also counts pieces of characters in its own way, so a reply may go on a little longer.
        short, long = sorted((cleaned(mine.output), cleaned(other.output)), key=len)
        assert long.startswith(short) and len(short) > 40 and len(long) < len(short) + 40
        assert mine.stop == other.stop
    # Most of a random model's characters are whole, so that the comparison means something.
    assert sum(len(cleaned(s.output)) for s in ours) > 300
