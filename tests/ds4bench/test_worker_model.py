"""The worker over a real file: facts from headers alone, then a sweep in which all modes agree."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import get_args, get_origin

import pytest

from ds4bench.plan import Prompt, Sampling, SweepPlan
from ds4bench.records.files import read_rows
from ds4bench.worker import model as worker_model
from ds4bench.worker.facts import Bandwidth, ModelFacts, PromptFacts
from ds4bench.worker.messages import (
    COMMANDS,
    Begun,
    Command,
    Copies,
    Decoded,
    EngineFacts,
    Failure,
    Inspect,
    Loaded,
    Prefilled,
    WarmedUp,
    decode_command,
    decode_reply,
    encode_command,
    encode_reply,
    reply_type,
)
from ds4bench.worker.model import FileModel, open_worker
from ds4bench.worker.protocol import Warmup
from ds4bench.worker.worker import answer
from engine.errors import LayoutError
from engine.models.shapes import named_shape
from engine.models.write import write_model
from engine.nano import prose
from engine.options import MODES
from tests.ds4bench.fakes import FakeModel


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("worker")
    for name, draft in (("base.gguf", False), ("mtp.gguf", True)):
        write_model(folder / name, named_shape("nano"), "q8_0", 1, draft=draft)
    return folder


def plan(folder, **more):
    options = {
        "model": folder / "base.gguf", "mtp": folder / "mtp.gguf", "threads": 1,
        "ctx_start": 64, "ctx_max": 256, "step_mul": 2.0, "gen_tokens": 4, "ctx_alloc": 300,
        "prompt": Prompt(seed=3), **more,
    }  # fmt: skip
    return SweepPlan(**options)


def test_inspect_reads_headers_and_hashes_small_files(files):
    facts = FileModel().inspect(plan(files))

    digest = hashlib.sha256((files / "base.gguf").read_bytes()).hexdigest()
    assert facts.model_id == f"sha256:{digest}"
    assert facts.has_mtp and tuple(facts.implemented_modes) == MODES
    assert set(facts.decode_bytes) == {64, 128, 256}
    assert facts.memory.context > 0 and facts.memory.snapshot > 0
    info = os.stat(files / "base.gguf")
    assert facts.files[0].stat[0][1:] == (
        info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns,
    )  # fmt: skip


def test_inspect_does_not_import_numba(files):
    code = (
        "import sys\nfrom tests.ds4bench.test_worker_model import plan, open_worker\n"
        "from pathlib import Path\n"
        "w = open_worker(); w.inspect(plan(Path(sys.argv[1]))); w.encode()\n"
        "assert 'numba' not in sys.modules\n"
    )
    env = {**os.environ, "PYTHONPATH": os.getcwd()}
    subprocess.run([sys.executable, "-c", code, str(files)], check=True, env=env)


COUNTED = """
import sys
from pathlib import Path
from tests.ds4bench.test_worker_model import plan, open_worker
w = open_worker()
w.inspect(plan(Path(sys.argv[1]), ctx_start=64, ctx_max=600, ctx_alloc=700)); w.encode(); w.load()
w.begin()
cold = w.prefill(64).compiled, w.decode("plain").compiled
w.warm_up(("plain", "mtp-combined"))
w.begin()
warm = [(w.prefill(n).compiled, w.decode("plain").compiled, w.decode("mtp-combined").compiled)
        for n in (64, 128, 256, 512, 600)]
print(cold, warm)
assert any(cold), cold  # where nothing is cached, the first compiles for all
assert not any(sum(warm, ())), warm
"""


def test_the_warm_up_leaves_nothing_to_compile_inside_the_clock(files):
    """Fault 2, with the real kernels: a cold process counts them, a warm one has none left."""
    env = {**os.environ, "PYTHONPATH": os.getcwd()}
    subprocess.run([sys.executable, "-c", COUNTED, str(files)], check=True, env=env)


def test_of_a_long_prompt_no_more_is_read_than_is_used(files, monkeypatch):
    """Fault 26: 31 MB of text were tokenised for the first 2048 tokens."""
    text = prose.text(5, 400_000)
    worker, looked = open_worker(), []
    worker.inspect(plan(files, prompt=Prompt(Path("p"), text), ctx_max=600, ctx_alloc=700))
    real = worker.model._encode
    whole = real(Prompt(Path("p"), text), text, 600)
    monkeypatch.setattr(
        worker.model, "_encode", lambda p, t, n: looked.append(len(t)) or real(p, t, n)
    )
    worker.encode()
    assert worker.tokens == whole[:600] and sum(looked) < len(text) / 10

    # One word without end: a cut could change every token of it, so it is read on.
    endless = "a" * 40_000
    worker.inspect(plan(files, prompt=Prompt(Path("p"), endless), ctx_max=600, ctx_alloc=700))
    assert real(Prompt(Path("p"), endless), endless, 600)[:600] == worker_tokens(worker)


def worker_tokens(worker):
    worker.encode()
    return worker.tokens


def test_generated_prompt_is_long_enough_and_repeats_itself(files):
    worker = open_worker()
    worker.inspect(plan(files, ctx_max=5000, step_mul=100.0, ctx_alloc=None))
    first = worker.encode()
    tokens = worker.tokens
    assert len(tokens) == 5000 <= first.n_tokens
    assert worker.encode() == first and worker.tokens == tokens
    text = prose.text(3, 40_000)
    assert worker.model._tokenizer.encode(text).ids[:5000] == tokens


def test_chat_prompt_is_wrapped_and_a_short_text_repeated(files):
    worker = open_worker()
    prompt = Prompt(Path("a.txt"), "Say A.", chat=True, system="Be brief")
    worker.inspect(plan(files, prompt=prompt))
    chat = worker.encode().n_tokens
    plain = replace(prompt, chat=False, repeat=True)
    worker.inspect(plan(files, prompt=plain))
    facts = worker.encode()
    assert facts.n_tokens_once < chat
    assert facts.n_tokens >= 256 == len(worker.tokens)


@pytest.mark.parametrize("content", [b"", b"GGUF", b"not a model" * 10])
def test_bad_files_are_exit_3(files, content):
    path = files / "bad.gguf"
    path.write_bytes(content)
    worker = open_worker()
    reply = answer(worker, Inspect(plan(files, model=path)))
    assert isinstance(reply, Failure) and reply.exit_code == 3, reply


def test_an_mtp_file_alone_is_no_model(files):
    other = plan(files, model=files / "mtp.gguf", mtp=None)
    assert answer(open_worker(), Inspect(other)).exit_code == 3


def test_a_real_sweep_in_all_modes_is_lossless(files, tmp_path):
    """The whole program on a real file: same tokens in every mode, bytes and rates present."""
    done = subprocess.run(
        [sys.executable, "-m", "ds4bench.cli", "-m", files / "base.gguf", "--mtp",
         files / "mtp.gguf", "--mode", "all", "--mtp-draft", "2", "--ctx-start", "128",
         "--ctx-max", "384", "--step-incr", "128", "-n", "9", "--out", tmp_path / "o", "-t", "1"],
        env={**os.environ, "PYTHONPATH": os.getcwd()}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = read_rows(tmp_path / "o").rows
    assert len(rows) == 12 and all(row.ok and row.lossless for row in rows)
    assert {row.gen_tokens for row in rows} == {9}
    assert all(row.bytes_per_step > 0 and row.gen_s > 0 and row.kv_bytes for row in rows)
    kv = {row.ctx_tokens: row.kv_bytes for row in rows}
    assert kv[384] - kv[256] == kv[256] - kv[128]
    assert read_rows(tmp_path / "o").environment["engine"]["activations"] == "int8"


def filled(record) -> None:
    """Every field of a record, and of records in it, has a value."""
    for field in fields(record):
        value = getattr(record, field.name)
        if field.name in ("free_device_bytes", "dspark_id"):
            assert value is None, "both compute on the host, and draft with an MTP block"
            continue
        assert value is not None and value != () and value != {}, field.name
        for item in value if isinstance(value, tuple) else (value,):
            if is_dataclass(item):
                filled(item)


def test_the_fake_model_says_what_the_real_one_says(files, monkeypatch):
    """Same types and the same fields, all filled: the fake cannot drift from what it stands for."""
    monkeypatch.delenv("DS4_FAKE", raising=False)
    real, fake = (kind().inspect(plan(files)) for kind in (FileModel, FakeModel))
    assert type(real) is type(fake) is ModelFacts
    filled(real)
    filled(fake)
    assert shape_of(asdict(real)) == shape_of(asdict(fake))


def shape_of(value):
    """Types of a nested value; of a sequence or mapping, those of its first item."""
    if isinstance(value, dict):
        if all(isinstance(key, int) for key in value):
            return dict, shape_of(next(iter(value.values())))
        return {key: shape_of(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return type(value), shape_of(value[0])
    return float if isinstance(value, float) else type(value)


@pytest.mark.parametrize("kind", COMMANDS)
def test_every_message_survives_the_wire(kind):
    """A command and a reply of each kind come back equal, of the annotated types."""
    prompt = Prompt(Path("p.txt"), "text\n", chat=True)
    one = SweepPlan(Path("m.gguf"), prompt, mtp=Path("d.gguf"), modes=("plain", "mtp-strict"))
    arguments = {"plan": one, "modes": ("plain",), "frontier": 7, "mode": "plain",
                 "text_class": "prose"}  # fmt: skip
    command = kind(**{f.name: arguments[f.name] for f in fields(kind)})
    assert decode_command(encode_command(command), COMMANDS) == command
    [annotated] = [base for base in kind.__orig_bases__ if get_origin(base) is Command]
    assert reply_type(kind) is get_args(annotated)[1]


REPLIES = (
    Bandwidth(1e9, 2),
    Begun(),
    PromptFacts(10, 5, "ab"),
    Loaded(1.5, EngineFacts({"threads": 2, "shape": {"n_layer": 1}}, ("a notice",))),
    WarmedUp((Warmup(5, 0.1, {"plain": 0.2}, {"mtp-strict": "why"}),), Copies(1, 2), {"pass": 3}),
    Prefilled(0.5, 100, 4000, None),
    Decoded(4, 0.5, (0.25, 0.25), (2, 2), 2, 2, (2,), (2,), 0.1, 0.2, 0.0, "ab", 1e8, Copies(1, 1)),
)


@pytest.mark.parametrize("reply", REPLIES, ids=lambda reply: type(reply).__name__)
def test_every_reply_survives_the_wire(reply):
    [kind] = [kind for kind in COMMANDS if reply_type(kind) is type(reply)]
    command = kind.__new__(kind)
    assert decode_reply(encode_reply(reply), command) == reply
    failure = Failure("OptionError", "--x: expected y, found z", 2)
    assert decode_reply(encode_reply(failure), command) == failure


def test_facts_of_a_model_survive_the_wire(files):
    facts = FileModel().inspect(plan(files))
    assert decode_reply(encode_reply(facts), Inspect(plan(files))) == facts


def test_a_message_of_another_shape_is_refused():
    with pytest.raises(TypeError, match="expected fields frontier, found"):
        decode_command(b'{"cmd": "prefill", "arguments": {"mode": "plain"}}', COMMANDS)
    with pytest.raises(KeyError):
        decode_command(b'{"cmd": "fly", "arguments": {}}', COMMANDS)


@pytest.fixture(scope="module")
def loaded(files):
    """A model that has been opened, with 64 tokens in a session of it."""
    model = FileModel()
    one = plan(files)
    model.inspect(one)
    model.load(one)
    session = model.session(200)
    session.sync(model.encode_prompt(one.prompt, 64)[:64])
    return model, session, session.save()


def drafts(loaded, one: SweepPlan, steps: int = 4) -> list[int]:
    """Drafted tokens of each step of a combined decoder as the plan shapes it."""
    model, session, saved = loaded
    session.restore(saved)
    decoder = model.decoder(session, "mtp-combined", one)
    token, found = decoder.start(), []
    for _ in range(steps):
        step = decoder.step(token, 20)
        token = step.next
        found.append(step.drafted)
    return found


def test_depth_adaption_and_margin_reach_the_decoder(files, loaded):
    assert drafts(loaded, plan(files, mtp_draft=1)) == [1, 1, 1, 1]
    assert drafts(loaded, plan(files, mtp_draft=4)) == [4, 4, 4, 4]
    # Every depth is tried once before one is preferred.
    assert drafts(loaded, plan(files, mtp_draft=4, mtp_adaptive=True)) == [1, 2, 3, 4]
    # No two logits are that far apart: not one token is drafted.
    assert drafts(loaded, plan(files, mtp_draft=4, mtp_margin=1e9)) == [0, 0, 0, 0]


def test_sampling_reaches_the_decoder(files, loaded):
    model, session, saved = loaded

    def tokens(sampling: Sampling) -> list[int]:
        session.restore(saved)
        decoder = model.decoder(session, "plain", plan(files, sampling=sampling))
        found = [decoder.start()]
        for _ in range(8):
            found.append(decoder.step(found[-1], 8).next)
        return found

    greedy = tokens(Sampling())
    assert tokens(Sampling(seed=2)) == greedy
    assert tokens(Sampling(temp=2.0, seed=2)) != tokens(Sampling(temp=2.0, seed=3))
    assert tokens(Sampling(temp=2.0, top_k=1, seed=3)) == greedy


def test_warm_weights_reads_both_files_before_they_are_opened(files, monkeypatch):
    events = []
    monkeypatch.setattr(worker_model, "read_through", lambda path: events.append(path.name))

    def opened(options, bar):
        events.append("open")
        raise LayoutError("stop here")

    monkeypatch.setattr(worker_model, "open_engine", opened)
    for warm in (False, True):
        with pytest.raises(LayoutError):
            FileModel().load(plan(files, warm_weights=warm))
    assert events == ["open", "base.gguf", "mtp.gguf", "open"]


def test_values_are_checked_as_often_as_the_plan_says(files, monkeypatch):
    seen = []

    def opened(options, bar):
        seen.append(options.check_values)
        raise LayoutError("stop here")

    monkeypatch.setattr(worker_model, "open_engine", opened)
    for how in ("never", "always"):
        with pytest.raises(LayoutError):
            FileModel().load(plan(files, check_values=how))
    assert seen == ["never", "always"]
