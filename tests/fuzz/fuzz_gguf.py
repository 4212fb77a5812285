"""Coverage-guided fuzzing of the GGUF parser with atheris.

    python tests/fuzz/fuzz_gguf.py -max_total_time=60

Arguments are libFuzzer's. Seeds and dictionary are made from the test corpus in a temporary
folder. A finding is any exception but GGUFError, or an accepted file with a tensor that is not
inside the file, aligned and disjoint from the others.
"""

from __future__ import annotations

import hashlib
import subprocess
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


def fuzz(folder: Path, arguments: list[str]) -> None:
    import atheris

    with atheris.instrument_imports(include=["engine.gguf.parse", "engine.gguf.values"]):
        import engine.gguf.parse  # noqa: F401
    # A file of 4 KiB that takes more than a second, or half a gigabyte, is a finding too.
    limits = ["-timeout=1", "-rss_limit_mb=512", f"-max_len={MAX_SEED}"]
    words, seeds = f"-dict={folder / 'words'}", str(folder / "seeds")
    atheris.Setup([sys.argv[0], words, *limits, *arguments, seeds], one_input)
    atheris.Fuzz()


def main() -> int:
    if sys.argv[1:2] == ["--folder"]:
        fuzz(Path(sys.argv[2]), sys.argv[3:])
    # libFuzzer ends its process without unwinding, so a parent owns the folder.
    with tempfile.TemporaryDirectory() as name:
        Path(name, "seeds").mkdir()
        write_seeds(Path(name, "seeds"))
        write_dictionary(Path(name, "words"))
        command = [sys.executable, __file__, "--folder", name, *sys.argv[1:]]
        return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
