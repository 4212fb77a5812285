"""Options that stand in several commands with another text, value or default, and why."""

from __future__ import annotations

# Options of the shared groups: each difference is stated in the call for the group.
SHARED_DIFFERENT = {
    "--backend": "ds4-bench leaves 'reference' out: float64 NumPy is no subject of a benchmark",
    "--mode": "ds4-bench compares modes, so it takes several and 'all'",
    "--temp": "ds4 writes text at temperature 1; ds4-bench and ds4-eval take the likeliest token",
    "--top-p": "upstream's ds4-bench takes 0.95 where it samples, its ds4 and ds4-eval 1",
    "--min-p": "upstream's ds4-bench samples without it, its ds4 and ds4-eval with 0.05",
    "--seed": "ds4-bench also makes its prompt of it; ds4-eval's 0 means none; elsewhere it is "
    "the seed of something else than sampling",
    "--model": "ds4-bench peer and gpu open another model where none is named",
    "--device": "ds4-eval takes several, a worker for each",
    "--draft-model": "`ds4 inspect` looks at a pair only where one is named",
    "--mtp": "ds4 make-model writes the block, and ds4-bench gpu makes one",
}
# Names that mean the same in kind, and what the command at hand makes of it in particular.
OWN_WORDS = {
    "--prompt-file": "a message, a text to compare on, a text to evaluate",
    "--system": "ds4-bench uses it with --chat-prompt-file only",
    "--tokens": "most tokens of a reply; upstream's ds4-bench and `ds4 logits` have it otherwise",
    "--out": "what is written, or the folder of it",
    "--json": "JSON to a file beside the table, or in place of it",
    "--plot": "what is drawn",
    "--force": "what is replaced, or moved aside",
    "--ctx": "of a session; `ds4-bench residency` plans for it",
    "--ctx-max": "the sweep of ds4-bench gpu begins at 2048",
    "--repeats": "of a sweep, of a question",
    "--dry-run": "what is said",
    "--csv": "of a sweep, of a comparison with llama.cpp",
    "--resume": "of a sweep, of a session",
    "--strict": "the verdicts of speed and of scores have other names",
    "--format": "forms of a comparison, forms of other harnesses",
    "--suite": "without it `ds4-eval list` lists suites",
    "--ids": "`ds4-eval list` also reads them from @FILE",
    "--fail-under": "one run, or any of several",
    "--max-regression": "of a score, of a paired difference",
    "--api": "ds4-bench sends a text of exact length, ds4-eval messages",
    "--base-url": "a server that is measured, or asked",
    "--choice-seed": "`ds4-eval list` shows no texts of 'long'",
    "--gate": "a comparison's exit status, a series' latest level",
    "--headline": "of a run that begins, of one that is graded anew",
    "--machine": "what a machine should be, or whose memory is planned for",
    "--predict": "memory of machines, or their steps by the timeline model",
    "--recipe": "storage formats of a model, or how a published score was asked for",
    "--seconds": "of load to watch, of generating layers",
    "--output": "a sweep's file, another harness' file or folder",
    "--public": "a prompt, or the text of an exam",
    "--record-paths": "results files, a run folder",
    "--title": "above panels, above one figure",
}
DIFFERENT = {**SHARED_DIFFERENT, **OWN_WORDS}
