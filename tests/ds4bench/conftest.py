"""Fixtures of whole sweeps with the fake worker."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

import ds4bench.sweep.run as sweep_module
from ds4bench import cli
from ds4bench.sweep import circumstances
from tests.ds4bench.fakes import SPEC


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """Runs a sweep in this process; faults(...) arms the fake worker."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DS4_FAKE", raising=False)
    (tmp_path / "m.gguf").write_bytes(b"model")
    real = sweep_module.SweepRequest

    def request(*arguments, **options):
        return real(*arguments, worker=SPEC, **options)

    monkeypatch.setattr(sweep_module, "SweepRequest", request)
    monkeypatch.setattr(sweep_module, "timed_code", lambda: "code")
    # What else runs on this machine is no part of what these tests say.
    monkeypatch.setattr(circumstances, "busy_pct", lambda wait_s: 0.0)

    def run(*arguments):
        result = CliRunner().invoke(cli.main, ["-m", "m.gguf", *arguments])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    def faults(**config):
        path = tmp_path / "faults.json"
        path.write_text(json.dumps(config))
        monkeypatch.setenv("DS4_FAKE", str(path))

    run.folder = tmp_path
    run.faults = faults
    return run


@pytest.fixture
def slow_model(tmp_path):
    """A folder with a model whose steps take real time, so that signals find it at work."""
    (tmp_path / "m.gguf").write_bytes(b"model")
    (tmp_path / "faults.json").write_text(json.dumps({"sleep_s": 0.02}))
    return tmp_path, {"env": {"DS4_FAKE": str(tmp_path / "faults.json")}}
