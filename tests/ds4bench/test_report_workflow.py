"""The CI workflow: pinned, minimal rights, and its shell steps run here with stand-ins."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import textwrap
from pathlib import Path

import pytest

from engine.tooling import exits

ROOT = Path(__file__).resolve().parents[2]
WORKFLOW = ROOT / ".github" / "workflows" / "perf.yml"
SCRIPT = ROOT / ".github" / "scripts" / "perf.sh"

pytestmark = pytest.mark.skipif(
    not WORKFLOW.exists() or shutil.which("bash") is None or shutil.which("git") is None,
    reason="needs a checkout, bash and git",
)


def run_blocks() -> dict[str, str]:
    """Scripts of named steps."""
    text = WORKFLOW.read_text(encoding="utf-8")
    found = {}
    for name, body in re.findall(r"- name: (.+?)\n(.*?)(?=\n      - |\n  \w|\Z)", text, re.DOTALL):
        block = re.search(r"^ {8}run: \|\n((?: {10}.*\n?|\n)+)", body, re.MULTILINE)
        line = re.search(r"^ {8}run: (?!\|)(.+)$", body, re.MULTILINE)
        found[name] = textwrap.dedent(block.group(1)) if block else line.group(1) if line else ""
    return found


def test_actions_are_pinned_to_commits_with_their_version_beside():
    uses = re.findall(r"uses: (.+)", WORKFLOW.read_text(encoding="utf-8"))

    assert len(uses) == 7
    assert all(re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", u) for u in uses)


def test_only_the_job_that_runs_no_code_of_the_change_may_write():
    text = WORKFLOW.read_text(encoding="utf-8")
    measure, comment = text.split("\n  comment:\n")

    assert "\npermissions: {}\n" in measure
    assert "contents: read" in measure and ": write" not in measure
    assert re.findall(r"^ {6}([\w-]+): write", comment, re.MULTILINE) == ["pull-requests"]
    assert "actions/checkout" not in comment
    assert "persist-credentials: false" in measure


def test_untrusted_names_reach_scripts_through_the_environment_only():
    blocks = run_blocks()
    assert {"Install", "Measure base and head in turns", "Summary", "Comment"} <= set(blocks)
    # Steps that only use an action have no script.
    for name, script in ((n, s) for n, s in blocks.items() if s):
        assert "${{" not in script, name
        done = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True)
        assert done.returncode == 0, done.stderr


@pytest.fixture
def repository(tmp_path):
    """A repository with the script, a base commit, and a python that stands in for ds4-bench."""
    root = tmp_path / "repo"
    (root / "ds4bench").mkdir(parents=True)
    (root / "ds4bench" / "cli.py").touch()
    (root / ".github" / "scripts").mkdir(parents=True)
    shutil.copy(SCRIPT, root / ".github" / "scripts")
    git = ["git", "-C", str(root), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "base"]):
        subprocess.run([*git, *words], check=True, capture_output=True)
    python = tmp_path / "python"
    python.write_text(
        "#!/usr/bin/env bash\n"
        f'echo "$*" >> {tmp_path}/calls\n'
        'case "$*" in\n'
        '  "-c "*) echo /models/bundled.gguf ;;\n'
        '  *" ab "*) while [ "$1" != --markdown ]; do shift; done; echo "### AB" > "$2"\n'
        '     exit "$FAKE_STATUS" ;;\n'
        '  *" report "*) while [ "$1" != --out ]; do shift; done; mkdir -p "$2"\n'
        '     echo "## HEAD" > "$2/summary.md" ; while [ $# -gt 0 ]; do\n'
        '       [ "$1" != --history ] || echo db > "$2"; shift; done ;;\n'
        '  *" history trend "*) [[ "$*" != *" --plot "* ]] || exit 2; echo level ;;\n'
        "esac\n"
    )
    python.chmod(0o755)
    return root


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (exits.OK, 0),
        (exits.REGRESSION, 1),
        (exits.INCONCLUSIVE, 0),
        (exits.INCOMPARABLE, 0),
        (exits.ERROR, 1),
        (exits.USAGE, 1),
    ],
)
def test_script_fails_on_regressions_and_errors_only(repository, status, code):
    done = measure(repository, status)

    out = repository / "out" / "perf"
    assert done.returncode == code, done.stderr
    assert (out / "status").read_text() == f"{status}\n"
    summary = (out / "summary.md").read_text()
    if status in (exits.ERROR, exits.USAGE):
        assert f"ended with status {status}" in summary
    else:
        assert summary == "### AB\n\n## HEAD\n"
    calls = (repository.parent / "calls").read_text()
    assert f"ab --a-dir {out}/base-tree --b-dir {repository}" in calls
    assert "-- -m /models/bundled.gguf --ctx-start" in calls
    # No work tree stays behind, so the next run can make it again.
    listed = subprocess.run(
        ["git", "-C", str(repository), "worktree", "list"], capture_output=True, text=True
    )
    assert len(listed.stdout.splitlines()) == 1
    assert measure(repository, status).returncode == code


def test_script_measures_head_alone_where_base_has_no_bench(repository):
    git = ["git", "-C", str(repository), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for words in (["rm", "-q", "ds4bench/cli.py"], ["commit", "-qm", "none"]):
        subprocess.run([*git, *words], check=True, capture_output=True)

    done = measure(repository, 0)

    assert done.returncode == 0, done.stderr
    assert "Nothing to compare" in (repository / "out" / "perf" / "summary.md").read_text()
    assert " ab " not in (repository.parent / "calls").read_text()


def test_history_and_compiled_kernels_outlive_a_run():
    text = WORKFLOW.read_text(encoding="utf-8")
    measure = text.split("\n  comment:\n")[0]
    assert "DS4_KERNEL_CACHE: ${{ github.workspace }}/kernels" in measure
    assert "actions/cache/restore@" in measure and "restore-keys: history-main-" in measure
    saved = measure.split("name: Keep history")[1].split("- name:")[0]
    assert "always() && github.ref == 'refs/heads/main'" in saved
    assert "PERF_HISTORY: history/history.db" in measure and "branches: [main]" in text


def test_script_adds_head_to_the_history_that_is_named(repository):
    done = measure(repository, 0, PERF_HISTORY="past/history.db")
    assert done.returncode == 0, done.stderr
    out = repository / "out" / "perf"
    assert (out / "history.db").read_text() == "db\n"
    assert (repository / "past" / "history.db").exists()
    assert (out / "trend.txt").read_text() == "level\n", "a trend that cannot be drawn is told"
    assert (out / "summary.md").read_text().endswith("```text\nlevel\n```\n")


def measure(repository, status, **more):
    environment = {
        **os.environ,
        **more,
        "PYTHON": str(repository.parent / "python"),
        "FAKE_STATUS": str(status),
    }
    return subprocess.run(
        [str(repository / ".github" / "scripts" / "perf.sh"), "HEAD", "out/perf"],
        cwd=repository,
        env=environment,
        capture_output=True,
        text=True,
    )


def test_comment_step_survives_a_missing_artifact(tmp_path):
    gh = tmp_path / "gh"
    gh.write_text('#!/usr/bin/env bash\necho "$*" >> calls\n')
    gh.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "REPO": "owner/name",
                   "NUMBER": "12", "GH_TOKEN": "none"}  # fmt: skip
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", run_blocks()["Comment"]],
        cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "left no summary" in (tmp_path / "body.md").read_text()
    text = WORKFLOW.read_text(encoding="utf-8")
    assert "continue-on-error: true" in text.split("actions/download-artifact")[1].split("name:")[0]


@pytest.mark.parametrize("earlier", ["", "4711"])
def test_comment_step_makes_one_comment_and_then_edits_it(tmp_path, earlier):
    (tmp_path / "perf").mkdir()
    (tmp_path / "perf" / "summary.md").write_text("### fine $(touch pwned) `touch pwned`\n" * 3000)
    gh = tmp_path / "gh"
    gh.write_text(
        f'#!/usr/bin/env bash\necho "$*" >> calls\n[[ "$*" == *paginate* ]] && echo "{earlier}"\n'
        "exit 0\n"
    )
    gh.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "REPO": "owner/name",
        "NUMBER": "12",
        "GH_TOKEN": "none",
    }

    # GitHub runs steps with these options.
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", run_blocks()["Comment"]],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls[0].startswith("api --paginate repos/owner/name/issues/12/comments")
    if earlier:
        assert calls[1] == "api -X PATCH repos/owner/name/issues/comments/4711 -F body=@body.md"
    else:
        assert calls[1] == "api -X POST repos/owner/name/issues/12/comments -F body=@body.md"
    body = (tmp_path / "body.md").read_text()
    assert body.startswith("<!-- ds4-bench -->\n### fine $(touch pwned)") and len(body) < 65536
    assert not (tmp_path / "pwned").exists()


def test_summary_step_copes_without_a_summary(tmp_path):
    page = tmp_path / "page"
    environment = {**os.environ, "GITHUB_STEP_SUMMARY": str(page)}
    script = run_blocks()["Summary"]
    for text in ("", "## x\n"):
        if text:
            (tmp_path / "out" / "perf").mkdir(parents=True)
            (tmp_path / "out" / "perf" / "summary.md").write_text(text)
        command = ["bash", "-eo", "pipefail", "-c", script]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True)
        assert done.returncode == 0
    assert page.read_text() == "## x\n"
