"""Child process that renders one chat template; run as a script, it imports nothing of ours.

Protocol on stdin and stdout: four bytes of length, big endian, then JSON. The first request is
`{"source": str}`, later ones `{"variants": [variables, ...]}`; replies are `{"texts": [str, ...]}`
or `{"error": str}`. The parent holds the clock; this side caps memory and output.
"""

from __future__ import annotations

import contextlib
import json
import resource
import struct
import sys

MEMORY_BYTES = 1 << 30
OUTPUT_CHARS = 4 << 20


def limit() -> None:
    """Give up what rendering does not need: memory beyond the cap, files, processes, cores."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    # Descriptors 0 to 2 are open already, so no further file can be.
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))


def make_environment():
    """Jinja as chat templates expect it: immutable sandbox, no loader, block trimming.

    The settings and the names `raise_exception` and `tojson` follow the convention of
    Hugging Face's chat templates. `strftime_now` is left out: a prompt must not depend on
    the day; so is `lipsum`.
    """
    from jinja2 import TemplateError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message):
        raise TemplateError(str(message))

    def tojson(value, indent=None):
        return json.dumps(value, ensure_ascii=False, indent=indent)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals.pop("lipsum", None)
    environment.globals["raise_exception"] = raise_exception
    # Loads what Jinja and Python load on first use; after `limit` no file can be opened.
    warm_up = environment.from_string("{{ '\\n\u00e9' ~ messages|tojson|trim }}{{ missing.x }}")
    with contextlib.suppress(TemplateError):
        warm_up.render(messages=[{"content": "x"}])
    return environment


def render(template, variables) -> str:
    """Text of one rendering.

    Raises
    ------
    ValueError
        If it grows past the cap.
    """
    pieces = []
    n_chars = 0
    for piece in template.generate(**variables):
        n_chars += len(piece)
        if n_chars > OUTPUT_CHARS:
            raise ValueError(f"expected at most {OUTPUT_CHARS} characters, found more")
        pieces.append(piece)
    return "".join(pieces)


def receive(stream):
    """Next message; None at the end of input."""
    head = stream.read(4)
    if len(head) < 4:
        return None
    return json.loads(stream.read(struct.unpack(">I", head)[0]))


def send(stream, message) -> None:
    """Write one message. Lone surrogates, which a template can make, travel escaped."""
    body = json.dumps(message).encode("ascii")
    stream.write(struct.pack(">I", len(body)) + body)
    stream.flush()


def main() -> None:
    """Serve until the input ends."""
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    environment = make_environment()
    limit()
    send(sink, {"texts": []})
    template = None
    reply: dict[str, object]
    while (request := receive(source)) is not None:
        try:
            if "source" in request:
                template = environment.from_string(request["source"])
                reply = {"texts": []}
            else:
                reply = {"texts": [render(template, v) for v in request["variants"]]}
        except BaseException as error:  # whatever a template provokes is the parent's to report
            reply = {"error": f"{type(error).__name__}: {str(error)[:200]}"}
        send(sink, reply)


if __name__ == "__main__":
    main()
