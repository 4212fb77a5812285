"""Exit statuses of `ds4-bench`, in one table; the numbers are a contract with scripts and CI.

A gate and a bad file must not share a number, or a broken download would read as a regression.
"""

OK = 0
ERROR = 1  # runtime error
USAGE = 2  # bad option or input, refused before anything was loaded or overwritten
BAD_MODEL = 3  # not a model file that we can run
PARTIAL = 4  # the sweep ended, and at least one row failed
STORE = 5  # results busy (another writer), full or read-only
REGRESSION = 6  # compare, ab: slower beyond the tolerance
INCONCLUSIVE = 7  # compare, ab with --strict: no verdict
INCOMPARABLE = 8  # compare, ab: the runs differ in more than the code, or the machine is unfit
NOT_LOSSLESS = 9  # a lossless mode emitted other tokens than plain
HANGUP = 129
INTERRUPTED = 130
TERMINATED = 143

TABLE = (
    (OK, "done"),
    (ERROR, "runtime error"),
    (USAGE, "bad option or input; nothing was loaded or overwritten"),
    (BAD_MODEL, "bad model file"),
    (PARTIAL, "sweep ended with failed rows"),
    (STORE, "results busy, full or read-only; earlier rows are safe"),
    (REGRESSION, "compare, ab: regression"),
    (INCONCLUSIVE, "compare, ab --strict: inconclusive"),
    (INCOMPARABLE, "compare, ab: runs not comparable, or machine unfit"),
    (NOT_LOSSLESS, "a lossless mode emitted other tokens than plain"),
    (INTERRUPTED, "Ctrl-C (129 hang-up, 143 SIGTERM); finished rows are safe"),
)


def epilog() -> str:
    """The table as text for --help."""
    return "Exit status: " + "; ".join(f"{code} {meaning}" for code, meaning in TABLE) + "."
