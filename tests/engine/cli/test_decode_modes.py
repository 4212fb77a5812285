"""`ds4 --mode`: the same text in every mode, and refusals before anything is opened."""

from __future__ import annotations

import pytest

from engine.spec.protocol import SpecStats, StepResult
from engine.tooling.options.speculation import DraftWatch
from tests.engine.models import dspark_file, model_file

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
            "--mode: expected plain, mtp-strict, mtp-batched, mtp-combined, dspark or "
            "dspark-strict, found",
        ),
        (("--mode", "dspark"), "--mode dspark: expected --draft-model FILE, found none"),
        (("--draft-model", "x.gguf"), "--draft-model: expected a --mode that drafts, found plain"),
        (("--draft-max", 3), "--draft-max: expected a --mode that drafts, found plain"),
        (
            ("--mode", "mtp-strict", "--draft-confidence", 0.5),
            "--draft-confidence: expected a --mode dspark, found mtp-strict",
        ),
        (("--mode", "dspark", "--mtp-draft", 2), "--mtp-draft: expected a --mode mtp-strict"),
        (("--mode", "dspark", "--draft-confidence", 2), "--draft-confidence: expected 0 to 1"),
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


@pytest.fixture(scope="module")
def spark(model_folder):
    return "--draft-model", dspark_file(model_folder, "micro", "q8_0")


@pytest.mark.parametrize("mode", ["dspark", "dspark-strict"])
def test_dspark_prints_plains_text_and_says_what_drafts(ds4, files, spark, mode):
    model, _ = files
    _, plain, _ = ds4(*model, *ARGS, "--temp", 0)
    options = ("--temp", 0, "--mode", mode)
    for more in ((), ("--draft-max", 2), ("--draft-confidence", 0.4), ("--draft-adaptive",)):
        status, out, err = ds4(*model, *spark, *ARGS, *options, *more)
        assert status == 0, err
        assert out == plain
        assert "is a DSpark drafter of 3 stages (layout A)" in err


def drafted(err: str) -> str:
    """Drafts by depth, as the closing line counts them."""
    return err.split("by depth ")[1].split(")")[0]


def test_draft_max_is_the_most_of_a_step_and_confidence_ends_it_sooner(ds4, files, spark):
    base = (*files[0], *spark, *ARGS, "--temp", 0, "--mode", "dspark")
    assert drafted(ds4(*base)[2]).count(",") == 4
    assert drafted(ds4(*base, "--draft-max", 2)[2]).count(",") == 1
    err = ds4(*base, "--draft-confidence", 1)[2]
    assert "the drafter never ran" in err


def test_draft_model_takes_an_mtp_block_too(ds4, files):
    model, (_, block) = files
    options = ("--draft-model", block, "--mode", "mtp-combined")
    status, _, err = ds4(*model, *options, *ARGS, "--temp", 0)
    assert status == 0 and "is an MTP block" in err
    status, _, err = ds4(*model, "--draft-model", model[1], "--mode", "dspark", *ARGS)
    assert status == 3 and "expected a DSpark drafter or an MTP block, found neither" in err
    status, _, err = ds4(*model, "--draft-model", block, "--mode", "dspark", *ARGS)
    assert status == 2 and "--mode dspark: expected --draft-model FILE, found none" in err


def test_mtp_refuses_a_dspark_drafter_by_name(ds4, files, spark):
    status, _, err = ds4(*files[0], "--mtp", spark[1], "--mode", "mtp-combined", *ARGS)
    assert status == 3
    assert "expected an MTP block, found a DSpark drafter, which --draft-model takes" in err


def test_a_trunk_with_a_drafter_in_its_file_needs_no_other(ds4, model_folder):
    both = dspark_file(model_folder, "micro", "q8_0", "B", combined=True)
    status, plain, _ = ds4("-m", both, *ARGS, "--temp", 0)
    assert status == 0
    status, out, err = ds4("-m", both, *ARGS, "--temp", 0, "--mode", "dspark")
    assert (status, out) == (0, plain) and "drafts:" in err


def test_a_drafter_of_another_release_is_refused_unless_forced(ds4, files, spark, tmp_path):
    other = tmp_path / "DSpark-0731.gguf"
    other.symlink_to(spark[1])
    theirs = tmp_path / "DSpark-drafter-vision-exp.gguf"
    theirs.write_bytes(spark[1].read_bytes())
    ours = tmp_path / "model-0731.gguf"
    ours.write_bytes(files[0][1].read_bytes())
    base = ("-m", ours, "--draft-model", theirs, "--mode", "dspark", *ARGS, "--temp", 0)
    status, _, err = ds4(*base)
    assert status == 3
    assert "expected a drafter of the trunk's release, 0731 (file name), found vision-exp" in err
    status, _, err = ds4(*base, "--draft-force")
    assert status == 0, err
    # A link is called what its file is called.
    status, _, err = ds4("-m", ours, "--draft-model", other, "--mode", "dspark", *ARGS)
    assert status == 0 and "only the trunk states its release (0731)" in err
