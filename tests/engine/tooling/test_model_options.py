"""Options that open a model: what of a CUDA device may be said, and when it is refused."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from engine.errors import OptionError
from engine.tooling.options.model import model_options, take_model_options


def opened(*arguments):
    """Engine options of a command line."""
    found = {}

    @click.command()
    @model_options
    def command(**values):
        try:
            found["options"] = take_model_options(values, lambda line: None)
        except OptionError as error:
            found["error"] = str(error)
        assert not values

    result = CliRunner().invoke(command, ["-m", "x.gguf", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return found


def test_defaults_are_the_engines():
    options = opened()["options"]
    assert options.backend == "cpu"
    assert (options.launch, options.residency, options.residency_gib, options.device) == (
        "graph", "auto", None, 0,
    )  # fmt: skip


def test_a_cuda_device_may_be_described():
    given = (
        "--launch",
        "prepared",
        "--residency",
        "hybrid",
        "--residency-gib",
        "24",
        "--device",
        "1",
    )
    for backend in (("--cuda",), ("--backend", "cuda")):
        options = opened(*backend, *given)["options"]
        assert options.backend == "cuda" and options.launch == "prepared"
        assert options.residency == "hybrid" and options.residency_gib == 24
        assert options.device == 1


@pytest.mark.parametrize(
    ("option", "value"),
    [("--launch", "graph"), ("--residency", "auto"), ("--residency-gib", "0"), ("--device", "0")],
)
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_without_one_such_options_are_refused(option, value, backend):
    error = opened("--backend", backend, option, value)["error"]
    assert error == f"{option}: expected with --backend cuda, found {backend}"
