"""Coverage-guided fuzzing of every reader of our own formats and of question files, with atheris.

    python tests/fuzz/fuzz_readers.py [SECONDS] [NAME ...]

The seconds are shared by the targets of `tests.fuzz.readers`; each runs in a process of its own. A
finding is any exception but an EngineError, more than a gigabyte, or an input that takes ten
seconds; the process then ends with another status than 0, and the input lies in the folder that is
printed.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.fuzz.readers import BY_NAME, READERS

SECONDS = 60
MAX_SEED = 16384
PACKAGES = ["ds4bench", "ds4eval", "engine.tooling", "engine.cache.session_file"]


def fuzz(name: str, folder: Path, arguments: list[str]) -> None:
    """Fuzz one target until libFuzzer ends the process."""
    import atheris

    reader = BY_NAME[name]
    with atheris.instrument_imports(include=PACKAGES):
        seeds = reader.seeds()
        for seed in seeds:  # imports what a reader imports late
            reader.one_input(seed)
    for n, seed in enumerate(seeds):
        (folder / f"seed-{n}").write_bytes(seed)
    limits = ["-timeout=10", "-rss_limit_mb=1024", f"-max_len={MAX_SEED}", "-close_fd_mask=1"]
    atheris.Setup([sys.argv[0], *limits, *arguments, str(folder)],
                  lambda data: reader.one_input(data) and None)  # fmt: skip
    atheris.Fuzz()


def main() -> int:
    if sys.argv[1:2] == ["--target"]:
        fuzz(sys.argv[2], Path(sys.argv[3]), sys.argv[4:])
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else SECONDS
    names = sys.argv[2:] or [reader.name for reader in READERS]
    each = max(1, seconds // len(names))
    failed = []
    found = tempfile.mkdtemp(prefix="ds4-fuzz-found-")
    for name in names:
        # libFuzzer ends its process without unwinding, so a parent owns the folder.
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, __file__, "--target", name, folder,
                       f"-max_total_time={each}", f"-artifact_prefix={found}/{name}-"]  # fmt: skip
            done = subprocess.run(command, check=False, stderr=subprocess.PIPE, text=True)
        runs = re.findall(r"Done (\d+) runs", done.stderr)
        print(f"{name}: {runs[-1] if runs else 'ended early'}, status {done.returncode}")
        if done.returncode:
            failed.append(name)
            print(done.stderr[-4000:], file=sys.stderr)
    if failed:
        print(f"inputs that failed: {found}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
