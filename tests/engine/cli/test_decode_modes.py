"""`ds4 --mode`: the same text in every mode, and refusals before anything is opened."""

from __future__ import annotations

import pytest

from engine.spec.protocol import SpecStats, StepResult
from engine.tooling.options.speculation import DraftWatch
from tests.engine.models import model_file

ARGS = ("-p", "Count.", "--nothink", "-n", 30, "-c", 256, "--threads", 2, "--repack", "off")


@pytest.fixture(scope="module")
def files(model_folder):
    path = model_file(model_folder, "micro", "q8_0")
    return ("-m", path), ("--mtp", model_file(model_folder, "micro", "q8_0", draft=True))


def test_every_mode_prints_plains_text(ds4, files):
    model, mtp = files
    status, plain, err = ds4(*model, *ARGS, "--temp", 0)
    assert status == 0, err
    assert "drafts:" not in err
    for mode in ("mtp-strict", "mtp-batched", "mtp-combined"):
        status, out, err = ds4(*model, *mtp, *ARGS, "--temp", 0, "--mode", mode, "--mtp-draft", 2)
        assert status == 0, err
        assert out == plain
        assert "drafts:" in err


def test_sampled_speculation_repeats_with_its_seed(ds4, files):
    model, mtp = files
    options = ("--temp", 1.5, "--min-p", 0, "--seed", 4, "--mode", "mtp-combined")
    outputs = {ds4(*model, *mtp, *ARGS, *options)[1] for _ in range(2)}
    assert len(outputs) == 1


def test_a_drafter_that_is_never_right_is_called_out(ds4, files):
    model, mtp = files
    # Nothing of the block's distribution survives truncation to a target it never predicts.
    status, _, err = ds4(*model, *mtp, *ARGS, "--mode", "mtp-combined", "--mtp-margin", 1e9)
    assert status == 0
    assert "WARNING: mtp-combined: the drafter never ran" in err


def fed(watch, pairs):
    """What a watch says after each step of (drafted, kept)."""
    stats, said = SpecStats(), []
    for drafted, kept in pairs:
        stats.add(StepResult([0] * (kept + 1), 0, drafted, kept, 0.0, 0.0, 0.0))
        said.append(watch.after(stats))
    return said


def test_a_drafter_that_is_hardly_ever_right_is_called_out_once_with_the_figure():
    watch = DraftWatch("mtp-strict")
    said = fed(watch, [(1, int(n % 50 == 0)) for n in range(400)])
    assert [bool(line) for line in said] == [n == 199 for n in range(400)]
    assert said[199].startswith("WARNING: mtp-strict: ") and watch.said
    assert "found 4 of the first 200 (2.0 %)" in said[199]


@pytest.mark.parametrize(
    ("mode", "pairs"),
    [
        ("mtp-strict", [(1, int(n % 10 == 0)) for n in range(400)]),  # a tenth is kept
        ("mtp-strict", [(1, 0)] * 199),  # too few to judge
        # Deep drafts fail more often: the first of each step is what counts.
        ("mtp-combined", [(4, int(n % 4 == 0)) for n in range(100)]),
        ("plain", [(1, 0)] * 400),
    ],
)
def test_a_drafter_that_helps_or_was_hardly_tried_is_not(mode, pairs):
    watch = DraftWatch(mode)
    assert not any(fed(watch, pairs)) and not watch.said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--mode", "mtp-combined"), "--mode mtp-combined: expected --mtp FILE, found none"),
        (("--mtp", "x.gguf"), "--mtp: expected a --mode that drafts, found plain"),
        (
            ("--mode", "turbo"),
            "--mode: expected plain, mtp-strict, mtp-batched or mtp-combined, found",
        ),
        (("--mode", "mtp-strict", "--mtp-draft", 5), "--mtp-draft: expected 1 to 4, found 5"),
    ],
)
def test_refusals(ds4, files, options, message):
    status, out, err = ds4(*files[0], *ARGS, *options)
    assert (status, out) == (2, "")
    assert message in err


def test_a_trunk_is_no_block(ds4, files):
    status, _, err = ds4(*files[0], "--mtp", files[0][1], *ARGS, "--mode", "mtp-combined")
    assert status == 3
    assert "expected an MTP block" in err
