"""Coverage-guided fuzzing of the GGUF parser with atheris.

    python tests/fuzz/fuzz_gguf.py -max_total_time=60

Arguments are libFuzzer's. Seeds and dictionary are made from the test corpus in a temporary
folder. A finding is any exception but GGUFError, or an accepted file with a tensor that is not
inside the file, aligned and disjoint from the others.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.engine.gguf.corpus import BAD, ODD, valid_files
from tests.engine.gguf.oracle import check_accepted

MAX_SEED = 4096
WORDS = (b"GGUF", b"general.alignment", b"general.architecture", b"deepseek4", b"split.count",
         b"\3\0\0\0", b"\x08\0\0\0", b"\x09\0\0\0", b"\x20\0\0\0\0\0\0\0",
         b"\xff\xff\xff\xff\xff\xff\xff\x7f", b"\0\0\0\0\0\0\0\x80")  # fmt: skip


def write_seeds(folder: Path) -> None:
    """The small files of the corpus, one per file, named by their hash."""
    for data in [*BAD.values(), *ODD.values(), *valid_files().values()]:
        if len(data) <= MAX_SEED:
            (folder / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)


def write_dictionary(path: Path) -> None:
    """libFuzzer's dictionary: magic, keys, types and edge values."""
    lines = ('"' + "".join(f"\\x{byte:02x}" for byte in word) + '"' for word in WORDS)
    path.write_text("\n".join(lines) + "\n", encoding="ascii")


def one_input(data: bytes) -> None:
    """One run: refused with GGUFError, or sound."""
    from engine.errors import GGUFError
    from engine.gguf.parse import parse

    try:
        header = parse(data)
    except GGUFError:
        return
    check_accepted(header, len(data))


def main() -> None:
    import atheris

    with atheris.instrument_imports(include=["engine.gguf.parse", "engine.gguf.values"]):
        import engine.gguf.parse  # noqa: F401
    with tempfile.TemporaryDirectory() as name:
        seeds = Path(name, "seeds")
        seeds.mkdir()
        write_seeds(seeds)
        write_dictionary(Path(name, "words"))
        # A file of 4 KiB that takes more than a second, or half a gigabyte, is a finding too.
        limits = ["-timeout=1", "-rss_limit_mb=512", f"-max_len={MAX_SEED}"]
        atheris.Setup(
            [sys.argv[0], f"-dict={Path(name, 'words')}", *limits, *sys.argv[1:], str(seeds)],
            one_input,
        )
        atheris.Fuzz()


if __name__ == "__main__":
    main()
