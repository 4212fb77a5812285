#!/usr/bin/env bash
# Base against head on the bundled model, in turns; the same script runs in CI and by hand:
#
#     .github/scripts/perf.sh origin/main out/perf
#
# Leaves OUT/summary.md (job page and comment), OUT/report/ and OUT/status (ds4-bench's exit
# status); with PERF_HISTORY=FILE in the environment head is added to that history, and
# OUT/trend.txt says how speed changed over it. Exits 1 on a regression, on other tokens than base's, or on an error, 0 otherwise: a
# runner that is too noisy for a verdict says so in the summary and fails nobody's change.
set -euo pipefail

base_ref=${1:?usage: perf.sh BASE_REF OUT_DIR}
out=${2:?usage: perf.sh BASE_REF OUT_DIR}
python=${PYTHON:-python3}
# Small enough for a shared runner, large enough for prefill and decode to settle.
read -r -a sweep <<<"${PERF_SWEEP:---ctx-start 256 --ctx-max 1024 --step-mul 2 -n 64}"
read -r -a limits <<<"${PERF_LIMITS:---max-pairs 16 --budget 20 --max-load 60}"

root=$(git rev-parse --show-toplevel)
cd "$root"
mkdir -p "$out"
out=$(cd "$out" && pwd)
rm -rf "$out"/{ab,ab.md,ab.json,ab.xml,head,report,summary.md,status,history.db,trend.svg,trend.txt}
tree=$out/base-tree
git worktree remove --force "$tree" 2>/dev/null || true
# A reference may be anybody's text, and one that begins with a dash is no option.
base_commit=$(git rev-parse --verify --end-of-options "$base_ref^{commit}")
git worktree add --force --detach "$tree" "$base_commit" >&2
trap 'git -C "$root" worktree remove --force "$tree" 2>/dev/null || true' EXIT

bench() { "$python" -m ds4bench.cli "$@"; }

# Both sides measure head's bundled model: another recipe would be another experiment.
model=$("$python" -c 'from engine.models.bundled import bundled_model; print(bundled_model("base").path)')

status=0
if [ -f "$tree/ds4bench/cli.py" ]; then
  bench ab --a-dir "$tree" --b-dir "$root" --out "$out/ab" --markdown "$out/ab.md" \
    --json "$out/ab.json" --junit "$out/ab.xml" "${limits[@]}" -- -m "$model" "${sweep[@]}" || status=$?
else
  echo "base has no ds4-bench: nothing to compare" >&2
  printf '### Base has no ds4-bench\n\nNothing to compare; head alone below.\n' >"$out/ab.md"
fi
echo "$status" >"$out/status"

case $status in
  0 | 6 | 7 | 8 | 12) ;;
  *)
    printf '### ⛔ ds4-bench ab ended with status %s\n\nSee the log of this job.\n' "$status" \
      >"$out/summary.md"
    exit 1
    ;;
esac

bench -m "$model" "${sweep[@]}" --repeats 3 --out "$out/head" >&2
history=()
if [ -n "${PERF_HISTORY:-}" ]; then
  mkdir -p "$(dirname "$PERF_HISTORY")"
  history=(--history "$PERF_HISTORY")
fi
bench report "$out/head" --out "$out/report" "${history[@]}"
{
  cat "$out/ab.md"
  echo
  cat "$out/report/summary.md"
} >"$out/summary.md"
if [ -n "${PERF_HISTORY:-}" ]; then
  cp "$PERF_HISTORY" "$out/history.db"
  # A history of one commit has no trend to draw.
  bench history trend "$PERF_HISTORY" --metric prefill --metric decode --plot "$out/trend.svg" \
    >"$out/trend.txt" || bench history trend "$PERF_HISTORY" >"$out/trend.txt"
  { printf '\n```text\n'; head -n 40 "$out/trend.txt"; printf '```\n'; } >>"$out/summary.md"
fi

case $status in
  6)
    echo "::error title=ds4-bench::regression, see the summary"
    exit 1
    ;;
  12)
    echo "::error title=ds4-bench::head emits other tokens than base, see the summary"
    exit 1
    ;;
  8) echo "::warning title=ds4-bench::no verdict: runs not comparable, or runner too noisy" ;;
esac
