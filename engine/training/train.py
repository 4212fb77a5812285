"""Trains the nano model: ``python -m engine.training.train --minutes M --out FOLDER``.

Needs torch, numpy and tokenizers only. The folder receives

    log.jsonl        one line of figures every few seconds
    checkpoint.pt    everything needed to go on (--resume), unless --no-checkpoint
    weights-N.npz    float32 weights under the names of `engine.models.make`
    meta.json        what was trained, on what, for how long

The schedule goes by progress, the larger one of the parts of --tokens and --minutes that are used
up, so a run ends with its rate fallen and within its time on any machine. Workers that make
batches import this module, so torch is imported when training begins.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

from engine.errors import EngineError, OptionError
from engine.models.bundled import TOKENIZER
from engine.training.checkpoint import (
    check_positive,
    checkpoint_path,
    replace_file,
    save_parts,
)
from engine.training.feed import Feed, Request
from engine.training.stages import rate_at, stage_at

_CHECKPOINT, _LOG, _META = "checkpoint.pt", "log.jsonl", "meta.json"
_GPU_TOKENS, _CPU_TOKENS = 16384, 4096  # per step; a row of the last stages may be longer
_CLOSING_SECONDS = 6  # kept for writing the weights
_AHEAD_STEPS = 8  # that the host may queue on a GPU


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="engine.training.train", description="Train the nano model.")
    p.add_argument("--out", type=Path, required=True, help="folder for log, checkpoint, weights")
    p.add_argument("--tokens", type=float, help="train on this many tokens")
    p.add_argument("--minutes", type=float, help="end within this wall-clock time")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    p.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    p.add_argument("--batch-tokens", type=int, help="tokens per step")
    p.add_argument("--workers", type=int, help="processes that make batches")
    p.add_argument("--threads", type=int, help="CPU threads of torch")
    p.add_argument("--log-seconds", type=float, default=4.0)
    p.add_argument("--checkpoint-minutes", type=float, default=5.0)
    p.add_argument("--no-checkpoint", action="store_true", help="keep no checkpoint.pt")
    p.add_argument("--no-graph", action="store_true", help="never record a CUDA graph")
    p.add_argument("--resume", action="store_true", help="go on from checkpoint.pt")
    return p


def main(argv: list[str] | None = None) -> int:
    """Run; returns the exit status."""
    try:
        Run(arguments().parse_args(argv)).train()
    except EngineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


class Run:
    """One training run.

    Raises
    ------
    OptionError
        If an argument is out of range, or the folder holds a run that is not to be resumed.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.begin = time.monotonic()
        self.args = args
        if not (args.tokens or args.minutes):
            raise OptionError("train: expected --tokens or --minutes, found neither")
        check_positive(args, "tokens", "minutes", "batch_tokens", "threads")
        self.checkpoint = checkpoint_path(args.out / _CHECKPOINT, args.resume)
        if not TOKENIZER.is_file():
            raise OptionError(f"tokenizer: expected {str(TOKENIZER)!r}, found no such file")
        self.tokenizer_hash = hashlib.sha256(TOKENIZER.read_bytes()).hexdigest()
        args.out.mkdir(parents=True, exist_ok=True)
        self.step = self.n_token = 0
        self.before = 0.0  # seconds used before this process
        self._build()

    def _build(self) -> None:
        import torch

        from engine.models.make import draft_specs, trunk_specs
        from engine.models.shapes import nano
        from engine.training.net import Net, initial_weights
        from engine.training.optim import Optimizer

        args = self.args
        if args.threads:
            torch.set_num_threads(args.threads)
        cuda = args.device == "cuda" or (args.device == "auto" and torch.cuda.is_available())
        self.device = torch.device("cuda" if cuda else "cpu")
        n_core = (
            len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        )
        workers = args.workers
        if workers is None:
            # Beside a GPU all cores but two make batches; on the CPU one batch takes no time.
            workers = max(1, min(14, (n_core or 2) - 2)) if cuda else 0
        self.batch_tokens = args.batch_tokens or (_GPU_TOKENS if cuda else _CPU_TOKENS)
        self.feed = Feed(args.seed, workers)
        shape = nano()
        weights = initial_weights(shape, args.seed)
        specs = [*trunk_specs(shape), *draft_specs(shape)]
        if args.resume:
            self._load(torch, weights)
        self.optimizer = Optimizer(weights, specs, shape, self.device)
        if args.resume:
            self.optimizer.load_state(self._saved.pop("optimizer"))
        self.net = Net(shape, weights, getattr(torch, args.dtype))
        self.name = torch.cuda.get_device_name() if cuda else "cpu"
        n = sum(w.numel() for w in weights.values())
        print(f"{self.name}, torch {torch.__version__}, {n / 1e6:.2f} M weights", flush=True)

    def _load(self, torch: Any, weights: dict[str, Any]) -> None:
        saved = torch.load(self.checkpoint, weights_only=True)
        if saved["seed"] != self.args.seed:
            raise OptionError(f"seed: expected {saved['seed']} as before, found {self.args.seed}")
        weights.update(saved.pop("weights"))
        self.step, self.n_token = saved["step"], saved["n_token"]
        self.before = saved["seconds"]
        self._saved = saved

    def seconds(self) -> float:
        """Time used so far, earlier processes included."""
        return self.before + time.monotonic() - self.begin

    def progress(self) -> float:
        """Part of the run that is done."""
        args = self.args
        by_tokens = self.n_token / args.tokens if args.tokens else 0.0
        if not args.minutes:
            return by_tokens
        return max(by_tokens, self.seconds() / max(1.0, args.minutes * 60 - _CLOSING_SECONDS))

    def train(self) -> None:
        """Train to the end and write the weights."""
        import torch

        from engine.training.step import Step

        stage = step = None
        cuda = self.device.type == "cuda"
        pending: deque[Any] = deque()
        saved_at = logged_at = self.seconds()
        logged_tokens = self.n_token
        while (progress := self.progress()) < 1:
            if stage_at(progress) != stage or step is None:
                if step is not None:
                    self._log(step, stage, progress, logged_at, logged_tokens)
                    logged_at, logged_tokens = self.seconds(), self.n_token
                    self._save_weights(finished=False)
                stage = stage_at(progress)
                n_row = max(1, self.batch_tokens // stage.n_col)
                request = Request(stage.mix, n_row, stage.n_col)
                step = None  # a recorded step's memory is free before the next is recorded
                if cuda:
                    torch.cuda.empty_cache()
                record = cuda and not self.args.no_graph
                step = Step(self.net, self.optimizer, n_row, stage.n_col, stage.index, record)
            # Batches are numbered through, so no stage repeats one of an earlier stage of its mix.
            batch = self.feed.batch(request, self.step)
            step.run(batch, self.step, rate_at(progress, self.step))
            self.step += 1
            self.n_token += n_row * stage.n_col
            if cuda:
                # The clock is the device's, so the host must not run far ahead of it.
                event = torch.cuda.Event()
                event.record()
                pending.append(event)
                if len(pending) > _AHEAD_STEPS:
                    pending.popleft().synchronize()
            now = self.seconds()
            if now - logged_at >= self.args.log_seconds:
                self._log(step, stage, progress, logged_at, logged_tokens)
                logged_at, logged_tokens = self.seconds(), self.n_token
            if not self.args.no_checkpoint and now - saved_at >= 60 * self.args.checkpoint_minutes:
                self._save_checkpoint()
                saved_at = self.seconds()
        self.feed.close()
        if step is not None:
            self._log(step, stage, 1.0, logged_at, logged_tokens)
        self._save_weights(finished=True)
        if not self.args.no_checkpoint:
            self._save_checkpoint()
        print(f"done: {self.step} steps, {self.n_token} tokens, {self.seconds():.0f} s", flush=True)

    def _log(self, step: Any, stage: Any, progress: float, since: float, tokens: int) -> None:
        if self.n_token == tokens:
            return
        figures = step.figures()  # waits for the device
        now = self.seconds()
        line = {
            "step": self.step,
            "tokens": self.n_token,
            "seconds": round(now, 2),
            "progress": round(progress, 4),
            "tokens_per_second": round((self.n_token - tokens) / max(now - since, 1e-6)),
            "rate": round(rate_at(progress, self.step), 4),
            "mix": stage.mix,
            "n_col": stage.n_col,
            "index_mode": stage.index,
            "grad_norm": float(self.optimizer.grad_norm),
            **figures,
        }
        self.last = line
        with (self.args.out / _LOG).open("a") as file:
            file.write(json.dumps(line) + "\n")
        short = {k: v for k, v in line.items() if v is not None}
        print(
            " ".join(
                f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in short.items()
            ),
            flush=True,
        )

    def _save_checkpoint(self) -> None:
        import torch

        state = {
            "seed": self.args.seed,
            "step": self.step,
            "n_token": self.n_token,
            "seconds": self.seconds(),
            "weights": {k: v.detach().cpu() for k, v in self.net.w.items()},
            "optimizer": self.optimizer.state(),
        }
        replace_file(self.checkpoint, lambda file: torch.save(state, file))

    def _save_weights(self, finished: bool) -> None:
        save_parts(self.args.out, {k: v.detach().cpu().numpy() for k, v in self.net.w.items()})
        import torch

        meta = {
            "finished": finished,
            "seed": self.args.seed,
            "steps": self.step,
            "tokens": self.n_token,
            "seconds": round(self.seconds(), 1),
            "device": self.name,
            "torch": torch.__version__,
            "dtype": self.args.dtype,
            "tokens_per_step": self.batch_tokens,
            "tokenizer_sha256": self.tokenizer_hash,
            "last": getattr(self, "last", None),
        }
        text = json.dumps(meta, indent=2).encode()
        replace_file(self.args.out / _META, lambda file: file.write(text))


if __name__ == "__main__":
    sys.exit(main())
