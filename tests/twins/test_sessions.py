"""Sessions of two files with equal headers and other weights, through the program."""

from __future__ import annotations

import pytest

from engine.cli.main import cli
from engine.gguf.reader import open_gguf
from engine.tooling.exits import ERROR, OK, run_program
from tests.twins import bundled_copy, twin


@pytest.fixture
def ds4(capfdbinary):
    def run(*arguments):
        status = run_program(cli, "ds4", [str(one) for one in arguments])
        return status, capfdbinary.readouterr().err.decode()

    return run


def test_a_session_is_not_continued_with_other_weights(ds4, tmp_path):
    models = [bundled_copy(tmp_path)]
    models.append(twin(models[0]))
    names = []
    for path in models:
        with open_gguf(path) as file:
            names.append(file.identity.sampled_sha256()[:12])
    saved = tmp_path / "a.session"
    turn = ("-p", "Hi", "-n", "1", "--nothink", "--temp", "0", "-t", "1", "--session", saved)

    assert ds4("-m", models[0], *turn)[0] == OK
    before = saved.read_bytes()
    status, said = ds4("-m", models[1], *turn)
    assert status == ERROR and saved.read_bytes() == before
    assert (
        f"expected a session of this model ({names[1]}), found one of {names[0]}, which has the "
        "same header and other weights"
    ) in said
    assert ds4("-m", models[0], *turn)[0] == OK
    assert len(saved.read_bytes()) > len(before)
