"""`ds4 -p`: what goes on the timeline, what comes out, what is refused."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from engine.models.bundled import BundledModel
from engine.text.encoding import ABSOLUTE_MAXIMUM, BEYOND_MAXIMUM
from tests.engine.text.vocabulary import CONTROL

BOS, EOS, USER, BOT = (
    "<｜begin▁of▁sentence｜>",
    "<｜end▁of▁sentence｜>",
    "<｜User｜>",
    "<｜Assistant｜>",
)
SYSTEM = "You are a helpful assistant"


def prompt_of(engine):
    session = engine.sessions[-1]
    return engine.tokenizer.decode(session.tokens[: session.n_prompt])


def test_answer_and_speeds(ds4, engine):
    engine.notices.append("q3_K: no kernel; converted to Q8_0 in memory")

    status, out, err = ds4("-m", "m.gguf", "-p", "Hi", "--temp", 0)

    assert (status, out) == (0, "Hello, wörld.\n")
    lines = err.splitlines()
    assert lines[0] == engine.notices[0]
    n = len(engine.script)
    assert lines[1].startswith("memory: ")
    assert lines[2].startswith("prefill: ")
    assert f"; generation: {n} tokens, " in lines[2]
    assert lines[2].endswith(" t/s")
    assert len(lines) == 3
    assert prompt_of(engine) == f"{BOS}{SYSTEM}{USER}Hi{BOT}<think>"
    assert engine.opened[0].path == Path("m.gguf")
    assert engine.sessions[0].ctx == 32768


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--nothink"], f"{BOS}{SYSTEM}{USER}Hi{BOT}</think>"),
        (["--system", ""], f"{BOS}{USER}Hi{BOT}<think>"),
        (["--system", "Rhyme."], f"{BOS}Rhyme.{USER}Hi{BOT}<think>"),
        (["--raw"], f"{BOS}Hi"),
        (["--think-max"], f"{BOS}{SYSTEM}{USER}Hi{BOT}<think>"),
        (
            ["--think-max", "-c", "393216"],
            f"{BOS}{ABSOLUTE_MAXIMUM}{SYSTEM}{USER}Hi{BOT}<think>",
        ),
        (["--effort", "high"], f"{BOS}{SYSTEM}{USER}Hi{BOT}<think>"),
        (["--encoding", "0731"], f"{BOS}{SYSTEM}{USER}Hi{BOT}<think>"),
        (["--encoding", "0731", "--effort", "low"], f"{BOS}{SYSTEM}{USER}Hi{BOT}<think>"),
        (
            ["--encoding", "0731", "--effort", "high"],
            f"{BOS}{ABSOLUTE_MAXIMUM}{SYSTEM}{USER}Hi{BOT}<think>",
        ),
        (
            ["--encoding", "0731", "--think-max"],
            f"{BOS}{BEYOND_MAXIMUM}{SYSTEM}{USER}Hi{BOT}<think>",
        ),
        (["--encoding", "0731", "--nothink"], f"{BOS}{SYSTEM}{USER}Hi{BOT}</think>"),
    ],
)
def test_what_goes_on_the_timeline(ds4, engine, args, expected):
    status, _, err = ds4("run", "-m", "m", "-p", "Hi", "--temp", 0, *args)

    assert status == 0
    assert prompt_of(engine) == expected
    assert ("--think-max: needs 393216" in err) == (args == ["--think-max"])
    assert ("encoding: 0731 (--encoding)" in err) == ("0731" in args)


@pytest.mark.parametrize("how", ["once", "always", "never"])
def test_values_are_checked_as_often_as_asked(ds4, engine, how):
    assert ds4("run", "-m", "m", "-p", "Hi", "--temp", 0, "--check-values", how)[0] == 0
    assert engine.opened[0].check_values == how
    assert ds4("run", "-m", "m", "-p", "Hi", "--temp", 0)[0] == 0
    assert engine.opened[1].check_values == "once"


def test_rendered_prompts_are_taken_as_they_are(ds4, engine):
    text = f"{BOS}Sys{USER}One{BOT}</think>Two{EOS}{USER}Three{BOT}<think>"

    status, _, err = ds4("-m", "m", "-p", text, "--temp", 0)

    assert status == 0
    assert "taken as rendered chat" in err
    assert prompt_of(engine) == text
    control = set(engine.tokenizer.special_ids.values())
    tokens = engine.sessions[-1].tokens[: engine.sessions[-1].n_prompt]
    assert sum(t in control for t in tokens) == 8


@pytest.mark.parametrize("special", CONTROL)
@pytest.mark.parametrize("args", [[], ["--raw"], ["--system", "x"]])
def test_control_tokens_in_the_prompt_stay_text(ds4, engine, special, args):
    status, _, err = ds4("-m", "m", "-p", f"say {special} twice {special}", "--temp", 0, *args)

    assert status == 0
    assert "prompt: 2 control-token texts kept as ordinary text" in err
    session = engine.sessions[-1]
    control = set(engine.tokenizer.special_ids.values())
    found = [t for t in session.tokens[: session.n_prompt] if t in control]
    assert len(found) == (1 if args == ["--raw"] else 4)


def test_prompt_file(ds4, engine, tmp_path):
    path = tmp_path / "p.txt"
    path.write_bytes("\ufeffčtení\r\n".encode())

    assert ds4("-m", "m", "--prompt-file", path, "--raw", "--temp", 0)[0] == 0
    assert prompt_of(engine) == f"{BOS}čtení\r\n"


def test_chdir_comes_first(ds4, engine, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "p.txt").write_text("here")

    assert ds4("--chdir", "sub", "--prompt-file", "p.txt", "-m", "m", "--temp", 0)[0] == 0
    assert Path.cwd() == tmp_path / "sub"


def test_model_in_the_folder_is_found(ds4, engine, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ds4flash.gguf").touch()

    assert ds4("-p", "Hi", "--temp", 0)[0] == 0
    assert engine.opened[0].path == Path("ds4flash.gguf")


def test_without_a_model_the_bundled_one_is_named(ds4, engine, tmp_path, monkeypatch):
    bundled = BundledModel(tmp_path / "nano.gguf", "bundled nano model")
    monkeypatch.setattr("engine.tooling.options.model.bundled_model", lambda kind, recipe: bundled)
    monkeypatch.chdir(tmp_path)

    status, _, err = ds4("-p", "Hi", "--temp", 0)

    assert status == 0
    assert err.splitlines()[0] == "no -m and no ./ds4flash.gguf: bundled nano model"
    assert engine.opened[0].path == bundled.path


@pytest.mark.parametrize(("n", "ctx"), [(0, None), (1, None), (3, None), (50, 30), (50, 31)])
def test_limits(ds4, engine, n, ctx):
    args = ["-c", ctx] if ctx else []

    status, out, _ = ds4("-m", "m", "-p", "Hi", "-n", n, "--temp", 0, "--raw", *args)

    session = engine.sessions[-1]
    expected = min(n, len(engine.script), session.ctx - session.n_prompt)
    assert status == 0
    assert session.n_past - session.n_prompt == expected
    assert out.rstrip("\n") == engine.tokenizer.decode(engine.script[:expected])


def test_generation_stops_at_a_full_context(ds4, engine):
    engine.script = engine.tokenizer.encode("word " * 100).ids

    status, _, _ = ds4("-m", "m", "-p", "Hi", "--temp", 0, "--raw", "-c", 20)

    assert status == 0
    assert engine.sessions[-1].n_past == 20


def test_prompt_beyond_the_context(ds4, engine):
    # Nor is the file, of which there is none here, read ahead.
    line = ("-m", "m", "-p", "many words " * 50, "-c", 10, "--temp", 1, "--warm-weights")
    status, out, err = ds4(*line)

    assert (status, out) == (1, "")
    said = "expected at most 10 tokens (-c sets the context), found "
    assert err.startswith(f"ds4: error: prompt: {said}")
    assert err.count("\n") == 1
    assert engine.opened == []  # refused before the model was loaded


def test_unfinished_character_at_the_limit(ds4, engine):
    of_byte = {engine.tokenizer.token_bytes(i): i for i in range(engine.tokenizer.n_vocab)}
    engine.script = [of_byte[bytes([b])] for b in "漢".encode()]

    assert ds4("-m", "m", "-p", "x", "-n", 2, "--temp", 0)[1] == "\ufffd\n"
    assert ds4("-m", "m", "-p", "x", "-n", 3, "--temp", 0)[1] == "漢\n"


def test_seed_repeats_a_text_and_an_absent_one_is_printed(ds4, engine):
    engine.flat = True
    args = ("-m", "m", "-p", "x", "-n", 12, "--min-p", 0)

    first, again, other = (ds4(*args, "--seed", s)[1] for s in (5, 5, 6))
    _, random_text, err = ds4(*args)
    seed = err.splitlines()[0].removeprefix("seed ")

    assert first == again != other
    assert ds4(*args, "--seed", seed)[1] == random_text


def test_sampling_continues_across_a_saved_session(ds4, engine, tmp_path):
    """Positions key the draws: two runs of six tokens and one of twelve agree where they meet."""
    engine.flat = True
    path = tmp_path / "s"
    args = ("-m", "m", "--raw", "--min-p", 0, "--seed", 9)
    ds4(*args, "-p", "x", "-n", 12)
    whole = engine.sessions[-1].tokens

    ds4(*args, "-p", "x", "-n", 6, "--session", path)
    part = engine.sessions[-1].tokens
    ds4(*args, "-p", "x", "-n", 1, "--session", path)

    assert whole[: len(part)] == part
    assert engine.sessions[-1].tokens[: len(part)] == part


def test_session_is_continued_as_the_next_turn(ds4, engine, tmp_path):
    path = tmp_path / "talk"

    ds4("-m", "m", "-p", "One  two\nthree", "--temp", 0, "--nothink", "--session", path, "-c", 500)
    saved = json.loads(path.read_text())
    ds4("-m", "m", "-p", "More", "--temp", 0, "--session", path)
    again = json.loads(path.read_text())

    assert saved["title"] == "One two three"
    assert again["title"] is None
    assert again["ctx"] == 500
    reply = "Hello, wörld."
    assert engine.tokenizer.decode(again["tokens"]) == (
        f"{BOS}{SYSTEM}{USER}One  two\nthree{BOT}</think>{reply}{EOS}{USER}More{BOT}<think>{reply}"
    )


def test_interrupt_stops_between_tokens_and_saves(ds4, engine, tmp_path):
    calls = []

    def before_token():
        calls.append(1)
        if len(calls) == 4:  # prefill, then three tokens
            os.kill(os.getpid(), signal.SIGINT)

    engine.before_token = before_token
    path = tmp_path / "s"
    before = signal.getsignal(signal.SIGINT)

    status, out, err = ds4("-m", "m", "-p", "Hi", "--temp", 0, "--session", path)

    assert status == 130
    assert out.rstrip("\n") == engine.tokenizer.decode(engine.script[:3])
    assert "generation: 3 tokens" in err
    assert json.loads(path.read_text())["tokens"][-3:] == engine.script[:3]
    assert signal.getsignal(signal.SIGINT) is before  # a background shell has it ignored


def test_interrupt_while_prefilling(ds4, engine, tmp_path):
    engine.before_token = lambda: os.kill(os.getpid(), signal.SIGINT)

    status, out, err = ds4("-m", "m", "-p", "Hi", "--temp", 0, "--session", tmp_path / "s")

    assert (status, out, err.splitlines()[1:]) == (130, "", ["ds4: interrupted"])
    assert not (tmp_path / "s").exists()


def test_own_template(ds4, engine):
    from engine.text.tokenizer import Tokenizer
    from tests.engine.text.vocabulary import metadata

    template = "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    status, _, err = ds4("-m", "m", "-p", "Hi", "--temp", 0, "--chat-template")
    assert status == 2
    assert "--chat-template: expected a file that carries one" in err
    assert engine.opened == []

    engine.tokenizer = Tokenizer.from_metadata(metadata(chat_template=template))
    assert ds4("-m", "m", "-p", "Hi", "--temp", 0, "--chat-template")[0] == 0
    assert prompt_of(engine) == f"{BOS}<system>{SYSTEM}<user>Hi"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "--prompt: expected either"),
        (["-p", "a", "--prompt-file", "b"], "--prompt: expected either"),
        (["-p", ""], "--prompt: expected text, found none"),
        (["--prompt-file", "/nonexistent/x"], "--prompt-file: expected a readable file"),
        (["-p", "a", "--nothink", "--think-max"], "--think-max: expected without --nothink"),
        (["-p", "a", "--raw", "--nothink"], "--nothink: expected in chat format"),
        (["-p", "a", "--raw", "--encoding", "0731"], "--encoding: expected in chat format"),
        (["-p", "a", "--effort", "high", "--nothink"], "--effort: expected without --nothink"),
        (["-p", "a", "--effort", "high", "--think-max"], "--effort: expected without --think-max"),
        (["-p", "a", "--effort", "low", "--encoding", "first"], "--effort: expected one of none"),
        (["-p", "a", "--effort", "ultra"], "--effort: expected low, high or max, found 'ultra'"),
        (["-p", "a", "--encoding", "v5"], "--encoding: expected first or 0731, found 'v5'"),
        (["-p", "a", "--raw", "--system", "x"], "--system: expected in chat format"),
        (["-p", "a", "--temp", "-1"], "--temp: expected 0 to 100, found -1"),
        (["-p", "a", "--temp", "nan"], "--temp: expected a number, found 'nan'"),
        (["-p", "a", "--top-k", "2000"], "--top-k: expected 0 to 1024, found 2000"),
        (["-p", "a", "--top-p", "1.5"], "--top-p: expected 0 to 1, found 1.5"),
        (["-p", "a", "--min-p", "2"], "--min-p: expected 0 to 1, found 2"),
        (["-p", "a", "--seed", "-1"], "--seed: expected 0 to"),
        (["-p", "a", "-n", "-1"], "-n"),
        (["-p", "a", "-c", "0"], "-c"),
        (["-p", "a", "-c", "x"], "-c"),
        (["-p", "a", "--threads", "0"], "--threads: expected 1 to 1024, found 0"),
        (["-p", "a", "-t", "5000"], "-t/--threads: expected 1 to 1024, found 5000"),
        (["-p", "a", "--mtp-draft", "2"], "--mtp-draft: expected a --mode that drafts"),
        (["-p", "a", "--device", "1"], "--device: expected with --backend cuda, found cpu"),
        (["-p", "a", "--backend", "tpu"], "--backend"),
        (["-p", "a", "--activations", "int4"], "--activations"),
        (["-p", "a", "--kv", "q4"], "--kv"),
        (["-p", "a", "--repack", "maybe"], "--repack"),
        (["-p", "a", "--chdir", "/nonexistent"], "--chdir: expected a folder"),
        (["-p", "a", "--session", "/nonexistent/s"], "--session: expected an existing folder"),
        (["-p", "a", "--session", "/"], "--session: expected a regular file"),
        (["-p", "a", "--frobnicate"], "--frobnicate: no such option"),
        (["-p", "a", "extra"], "extra"),
        (["frobnicate"], "No such command"),
    ],
)
def test_refused_before_anything_is_loaded(ds4, engine, args, message):
    status, out, err = ds4(*(args if args == ["frobnicate"] else ["-m", "m", *args]))

    assert (status, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1
    assert err.startswith("ds4")
    assert engine.opened == []


@pytest.mark.parametrize("option", ["--system=x", "--chat-template"])
def test_new_session_options_on_an_old_one(ds4, engine, tmp_path, option):
    path = tmp_path / "s"
    path.write_text("{}")

    status, _, err = ds4("-m", "m", "-p", "a", "--temp", 0, "--session", path, option)

    assert status == 2
    assert "expected with a new session" in err
    assert path.read_text() == "{}"


def test_bad_prompt_file(ds4, engine, tmp_path):
    path = tmp_path / "p"
    path.write_bytes(b"ab\xff")

    status, _, err = ds4("-m", "m", "--prompt-file", path, "--temp", 0)

    assert status == 1
    found = "found byte 0xFF at offset 2 (line 1): invalid start byte"
    assert err == f"ds4: error: {path}: expected UTF-8, {found}\n"
    assert engine.opened == []


def test_options_reach_the_engine(ds4, engine):
    ds4(
        *("-m", "m", "-p", "a", "--temp", 0, "--threads", 3, "--activations", "f32"),
        *("--kv", "f32", "--repack", "off"),
    )

    options = engine.opened[0]
    assert (options.threads, options.activations, options.kv, options.repack) == (
        3,
        "f32",
        "f32",
        "off",
    )
