"""Options that open a model: what of a CUDA device may be said, and when it is refused."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from engine.errors import OptionError
from engine.options import CUDA_FIELDS, EngineOptions
from engine.tooling.options.kernels import KernelChoice, kernel_options
from engine.tooling.options.model import MODEL

KERNELS = kernel_options()


def opened(*arguments):
    """Engine options of a command line."""
    found = {}

    @click.command()
    @MODEL
    @KERNELS
    def command(**values):
        try:
            kernels, model = KERNELS.take(values), MODEL.take(values)
            found["options"] = kernels.engine_options(model.resolve(lambda line: None))
            assert not values, "every option is taken"
        except OptionError as error:
            found["error"] = str(error)

    result = CliRunner().invoke(command, ["-m", "x.gguf", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return found


def test_defaults_are_the_engines():
    options, engines = opened()["options"], EngineOptions(path="x.gguf")
    for name in KernelChoice().to_dict():
        assert getattr(options, name) == getattr(engines, name), name


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
    for backend in (("--cuda",), ("--backend", "cuda"), ("--cpu", "--cuda")):
        options = opened(*backend, *given)["options"]
        assert options.backend == "cuda" and options.launch == "prepared"
        assert options.residency == "hybrid" and options.residency_gib == 24
        assert options.device == 1


def test_the_last_backend_counts():
    assert opened("--cuda", "--backend", "reference")["options"].backend == "reference"
    assert opened("--cuda", "--cpu")["options"].backend == "cpu"


@pytest.mark.parametrize(
    ("option", "value"),
    [("--launch", "graph"), ("--residency", "auto"), ("--residency-gib", "0"), ("--device", "0")],
)
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_without_one_such_options_are_refused(option, value, backend):
    error = opened("--backend", backend, option, value)["error"]
    assert error == f"{option}: expected with --backend cuda, found {backend}"


def test_fields_of_a_device_are_fields_of_the_engine():
    assert {f"{name}" for name in CUDA_FIELDS} <= set(KernelChoice().to_dict())


def test_quality_is_exact_arithmetic():
    assert opened("--quality")["options"].activations == "f32"
    assert opened("--quality", "--activations", "f32")["options"].activations == "f32"
    error = opened("--quality", "--activations", "int8")["error"]
    assert error == "--quality: expected --activations f32, found int8"
    error = opened("--quality", "--cuda")["error"]
    assert error == "--quality: expected another --backend, found cuda, which has int8 only"


def test_a_model_is_named_once():
    error = opened("--nano", "iq2")["error"]
    assert error == "--nano: expected without -m, found both"
