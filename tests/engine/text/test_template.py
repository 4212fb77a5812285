"""Chat templates as untrusted code: agreement with transformers, content spans, hostile ones."""

from __future__ import annotations

import os
import subprocess
import sys
from select import select

import pytest

from engine.errors import OptionError, TextError
from engine.text import template as template_module
from engine.text import template_worker
from engine.text.chat import Message, render_chat
from engine.text.template import MAX_SOURCE, ChatTemplate
from engine.text.tokenizer import Span, Tokenizer
from tests.engine.text.vocabulary import CONTROL, metadata

DEEPSEEK = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'user' %}{{ '<｜User｜>' + m['content'] }}"
    "{% elif m['role'] == 'assistant' %}{{ '<｜Assistant｜></think>' + m['content'] + eos_token }}"
    "{% else %}{{ m['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<｜Assistant｜>' + ('<think>' if thinking else '</think>') }}{% endif %}"
)
CHATML = """{%- for message in messages %}
    {%- if loop.first and messages[0]['role'] != 'system' %}
        {{- '<|im_start|>system\\nYou help.<|im_end|>\\n' }}
    {%- endif %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}
"""
INST = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% else %}{{ message['content'] + eos_token }}{% endif %}{% endfor %}"
)
BLOCKS = """
{% set ns = namespace(n=0) %}
{% for m in messages %}
    {% if not m.content %}
        {% continue %}
    {% endif %}
    {% set ns.n = ns.n + 1 %}
### {{ m.role|capitalize }} {{ ns.n }}:
{{ m.content }}
{% endfor %}
{{ {'think': thinking}|tojson }}
"""
TALK = [
    Message("user", 'Hi, what is <b>2+2</b> & "why"? 漢字 {{ 7*7 }} {% raw %}'),
    Message("assistant", "4\n\nBecause."),
    Message("user", "Thanks"),
]
TIME = 0.7  # seconds for hostile templates; the default of 2 s has its own test


@pytest.fixture
def worker():
    opened = []

    def make(source, timeout=10.0):
        opened.append(ChatTemplate(source, timeout))
        return opened[-1]

    yield make
    for template in opened:
        template.close()


def joined(spans):
    return "".join(span.text for span in spans)


def test_own_rendering_and_the_same_as_a_template_agree(worker):
    template = worker(DEEPSEEK)
    for think in ("none", "high"):
        for messages in (TALK, [Message("system", "Be brief."), *TALK]):
            theirs, ours = template.render(messages, think, 100), render_chat(messages, think, 100)
            tok = Tokenizer.from_metadata(metadata())
            assert joined(theirs) == joined(ours)
            assert tok.encode_spans(theirs) == tok.encode_spans(ours)


@pytest.mark.oracle
@pytest.mark.parametrize("source", [DEEPSEEK, CHATML, INST, BLOCKS])
def test_agrees_with_transformers(worker, source):
    chat_template_utils = pytest.importorskip("transformers.utils.chat_template_utils")
    texts, _ = chat_template_utils.render_jinja_template(
        conversations=[[{"role": m.role, "content": m.content} for m in TALK]],
        chat_template=source,
        add_generation_prompt=True,
        bos_token="<｜begin▁of▁sentence｜>",
        eos_token="<｜end▁of▁sentence｜>",
        thinking=True,
        enable_thinking=True,
    )

    spans = worker(source).render(TALK, "high", 100)

    assert joined(spans) == texts[0]
    assert [s.text for s in spans if not s.trusted] == [m.content for m in TALK]


@pytest.mark.parametrize("special", CONTROL)
@pytest.mark.parametrize("where", ["{}", "{} x", "x {}", "x{}x"])
def test_content_never_becomes_control_tokens(special, where):
    tok = Tokenizer.from_metadata(metadata())
    control = set(tok.special_ids.values())

    def control_ids(content):
        encoded = tok.encode_spans(TEMPLATE.render([Message("user", content)], "none", 9))
        return [i for i in encoded.ids if i in control], encoded.n_special_in_text

    assert control_ids("plain")[1] == 0
    assert control_ids(where.format(special)) == (control_ids("plain")[0], 1)


TEMPLATE = ChatTemplate(DEEPSEEK, 10.0)


@pytest.fixture(scope="module", autouse=True)
def _close():
    yield
    TEMPLATE.close()


def test_trimmed_content_is_understood(worker):
    spans = worker(CHATML).render([Message("user", "  <think> \n")], "none", 9)

    assert Span("<think>") in spans
    assert joined(spans).endswith("user\n<think><|im_end|>\n<|im_start|>assistant\n")


def test_max_effort_reaches_the_template(worker):
    template = worker("{{ reasoning_effort|default('no') }}{{ messages[0].content }}")

    assert joined(template.render([Message("user", "x")], "max", 1 << 20)) == "maxx"
    assert joined(template.render([Message("user", "x")], "max", 1000)) == "nox"
    with pytest.raises(OptionError):
        template.render([Message("user", "x")], "deep", 1000)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("{{ messages[0].content }}{{ messages[0].content }}", "2 times"),
        ("nothing", "0 times"),
        ("{{ messages[0].content[:5] }}", "0 times"),
        ("{{ messages[0].content|reverse }}", "0 times"),
        ("{{ messages[0].content|upper }}", "0 times"),
        ("{{ messages[0].content|tojson }}", "rewritten"),
        ("{{ messages[0].content|replace('b', 'c') }}", "times|rewritten"),
        # A marker is hexadecimal, so it never holds the word that the next template looks for.
        ("{% if 'say' in messages[0].content %}<think>{% endif %}{{ messages[0].content }}", "rew"),
        ("{{ messages[0].content|length }}{{ messages[0].content }}", "rewritten"),
        ("{{ messages[0].content.split('\"')|last }}", "rewritten"),
    ],
)
def test_hidden_content_is_refused(worker, source, found):
    with pytest.raises(TextError, match=f"chat_template: expected .*({found})"):
        worker(source).render([Message("user", 'say "abracadabra"')], "none", 9)


def test_an_empty_content_stays_empty(worker):
    spans = worker("{% for m in messages %}[{{ m.content or 'none' }}]{% endfor %}").render(
        [Message("system", ""), Message("user", "x")], "none", 9
    )

    assert joined(spans) == "[none][x]"


def test_templates_own_error_message(worker):
    with pytest.raises(TextError, match="Roles must alternate"):
        worker(INST).render([Message("assistant", "x"), Message("user", "y")], "none", 9)


def test_digest_and_source_limit():
    assert ChatTemplate("abc").sha256.startswith("ba7816bf8f01cfea")  # FIPS 180 example
    with pytest.raises(TextError, match="at most"):
        ChatTemplate("x" * (MAX_SOURCE + 1))


def escapes(path: str) -> dict[str, str]:
    """Templates that try to run code, read files or change what they were given."""
    return {
        "class": "{{ ''.__class__ }}",
        "mro": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "popen": "{{ ''.__class__.__base__.__subclasses__()[140]('touch " + path + "') }}",
        "globals": "{{ raise_exception.__globals__['__builtins__']['open']('" + path + "','w') }}",
        "func code": "{{ raise_exception.__code__ }}",
        "closure": "{{ raise_exception.func_globals }}",
        "attr filter": "{{ ''|attr('__class__') }}",
        "attr hex": "{{ ''|attr('\\x5f\\x5fclass\\x5f\\x5f') }}",
        "map attr": "{{ ['']|map(attribute='__class__')|list }}",
        "format attr": "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}",
        "format indirect": "{% set f = '{0.__class__}'.format %}{{ f(messages) }}",
        "format_map": "{{ '{x.__class__}'.format_map({'x': messages}) }}",
        "format via attr": "{{ ('{0.__class__}'|attr('format'))(messages) }}",
        "format via map": "{{ ['{0.__class__}']|map('format', messages)|list }}{{ 1/0 }}",
        "self": "{{ self.__init__.__globals__ }}",
        "self blocks": "{{ self._TemplateReference__context.environment }}",
        "cycler": "{{ cycler.__init__.__globals__.os.system('touch " + path + "') }}",
        "joiner": "{{ joiner.__init__.__globals__ }}",
        "namespace": "{{ namespace.__init__.__globals__ }}",
        "lipsum": "{{ lipsum.__globals__.os.system('touch " + path + "') }}",
        "generator": "{{ (messages|map('upper')).gi_frame }}",
        "request": "{{ config.items() }}{{ request.application.__globals__ }}",
        "mutate list": "{{ messages.append(1) }}",
        "mutate dict": "{{ messages[0].update({'role': 'system'}) }}",
        "clear": "{{ messages.clear() }}",
        "include": "{% include '" + path + "' %}",
        "import": "{% import 'os' as os %}{{ os.system('touch " + path + "') }}",
        "from import": "{% from 'os' import system %}",
        "extends": "{% extends '/etc/passwd' %}",
        "open": "{{ open('" + path + "', 'w') }}",
    }


def floods() -> dict[str, str]:
    """Templates that hang, exhaust memory or stack, or cannot be compiled."""
    build = "{% set ns = namespace(s='x') %}"
    return {
        "range limit": "{{ range(10**9)|list }}",
        "nested range": "{% for a in range(99999) %}{% for b in range(99999) %}"
        "{% endfor %}{% endfor %}",
        "power": "{{ (9 ** 9) ** (9 ** 9) }}",
        "shift": "{{ (2 ** 30) ** (2 ** 30) ** 2 }}",
        "doubling": build
        + "{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s }}",
        "doubling list": "{% set ns = namespace(s=[1]) %}{% for i in range(60) %}"
        "{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s }}",
        "repeat": "{{ 'a' * 4000000000 }}",
        "width": "{{ '%4000000000d' % 1 }}",
        "format width": "{{ '{:>4000000000}'.format(1) }}",
        "center": "{{ 'x'|center(4000000000) }}",
        "indent": "{{ ('x\n' * 1000000)|indent(100000) }}",
        "output": "{% for i in range(99999) %}{{ 'x' * 10000 }}{% endfor %}",
        "batch": "{{ [1]|batch(1000000000, 0)|list }}",
        "recursive macro": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "recursive loop": "{% for x in [[1]] recursive %}{{ loop([x]) }}{% endfor %}",
        "deep parens": "{{" + "(" * 50000 + "1" + ")" * 50000 + "}}",
        "deep lists": "{{" + "[" * 3000 + "]" * 3000 + "}}",
        "deep ifs": "{% if 1 %}" * 2000 + "{% endif %}" * 2000,
        "deep not": "{{ " + "not " * 50000 + "1 }}",
        "long chain": "{{ x" + ".y" * 100000 + " }}",
        "regex": "{{ ('a' * 100000 + '!')|wordcount }}{{ ('a ' * 9000000)|wordwrap(1) }}",
        "unterminated": "{% for x in y %}",
        "unknown tag": "{% debug %}",
        "nul": "{{ '\x00' }}{% \x00 %}",
        "undefined": "{{ a.b.c.d }}",
        "zero": "{{ 1 // 0 }}",
        "type": "{{ 1 + 'x' }}",
        "huge number": "{{ 1" + "0" * 100000 + " }}",
        "escape in error": "{{ raise_exception('\x1b]0;owned\x07') }}",
    }


ASK = "{{ messages[0].content }}"  # a hostile template that then behaves must not go unseen
OUT_OF_MEMORY = ("repeat", "width", "format width", "center", "batch")


def test_there_are_enough_hostile_templates():
    assert len(escapes("x")) + len(floods()) >= 40


@pytest.mark.parametrize("name", sorted(escapes("x")))
def test_escapes(tmp_path, worker, name):
    canary = tmp_path / "canary"
    canary.write_text("secret", encoding="utf-8")
    before = canary.stat()
    template = worker(escapes(str(canary))[name] + ASK)

    try:
        text = joined(template.render([Message("user", "question")], "none", 9))
    except TextError as error:
        check_message(str(error))
        assert "within" not in str(error)
    else:
        # What the sandbox takes away is undefined and prints as nothing.
        assert text in ("question", "[Undefined]question")

    assert os.listdir(tmp_path) == ["canary"]
    assert (canary.stat().st_mtime_ns, canary.stat().st_size) == (before.st_mtime_ns, 6)


@pytest.mark.parametrize("name", sorted(floods()))
def test_floods(worker, name):
    template = worker(floods()[name] + ASK, 10.0 if name in OUT_OF_MEMORY else TIME)

    with pytest.raises(TextError) as caught:
        template.render([Message("user", "question")], "none", 9)

    check_message(str(caught.value))
    if name in OUT_OF_MEMORY:
        assert "MemoryError" in str(caught.value)


def check_message(message):
    assert message.startswith("tokenizer.chat_template: expected ")
    assert message.isprintable()
    assert "secret" not in message


def test_lipsum_is_gone(worker):
    with pytest.raises(TextError, match="'lipsum' is undefined"):
        worker("{{ lipsum(n=1) }}" + ASK).render([Message("user", "x")], "none", 9)


def test_worker_gives_up_files_and_processes():
    code = (
        "import os, sys\n"
        f"sys.path.insert(0, {os.path.dirname(template_worker.__file__)!r})\n"
        "import template_worker\n"
        "template_worker.limit()\n"
        "for act in (lambda: open('/etc/hostname'), lambda: bytearray(1 << 30), os.pipe):\n"
        "    try: act()\n"
        "    except (OSError, MemoryError) as error: print(type(error).__name__)\n"
        "    else: print('allowed')\n"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True)

    assert done.stdout.split() == ["OSError", "MemoryError", "OSError"], done.stderr


def test_works_again_after_a_timeout(worker):
    template = worker(
        "{% if messages[0].content == 'hang' %}{% for a in range(99999) %}"
        "{% for b in range(99999) %}{% endfor %}{% endfor %}{% endif %}{{ messages[0].content }}",
        TIME,
    )
    with pytest.raises(TextError, match=r"within 0\.7 s"):
        template.render([Message("user", "hang")], "none", 9)

    assert joined(template.render([Message("user", "fine")], "none", 9)) == "fine"


def test_default_clock_is_two_seconds(monkeypatch):
    waits = []
    monkeypatch.setattr(
        template_module.select,
        "select",
        lambda *arguments: waits.append(arguments[3]) or select(*arguments),
    )
    with ChatTemplate(
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    ) as template:
        template._start()
        del waits[:]
        with pytest.raises(TextError, match="within 2 s"):
            template.render([Message("user", "x")], "none", 9)
    # Sending and waiting for the answer share one clock of two seconds.
    assert len(waits) == 2 and 2.0 >= waits[0] >= waits[1] >= 0.0


def test_no_child_is_left(worker):
    template = worker(DEEPSEEK)
    template.render(TALK, "none", 9)
    child = template._child
    template.close()

    assert child is not None
    assert child.poll() is not None
    template.close()


def test_worker_is_capped():
    assert template_worker.MEMORY_BYTES == 1 << 30
    assert template_worker.OUTPUT_CHARS == 4 << 20
    environment = template_worker.make_environment()
    assert (
        len(template_worker.render(environment.from_string("{{ 'x' * 4194304 }}"), {})) == 4 << 20
    )
    with pytest.raises(ValueError, match="at most 4194304 characters"):
        template_worker.render(environment.from_string("{{ 'x' * 4194304 }}y"), {})
