"""Trains the bundled model's DSpark head: ``python -m engine.training.dspark.train --out FOLDER``.

The trunk is the packaged one and stays as it is; batches alternate between its two recipes, since
one head serves both. The folder receives

    log.jsonl        one line of figures every few steps, and held-out figures now and then
    checkpoint.pt    everything needed to go on (--resume)
    weights-N.npz    float32 weights under the names of `engine.models.dspark`
    meta.json        what was trained, on what, for how long

A run is a number of steps, so equal arguments on one machine give equal weights.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import EngineError, OptionError
from engine.models.bundled import RECIPES
from engine.models.shapes import nano
from engine.training.checkpoint import (
    check_positive,
    checkpoint_path,
    replace_file,
    save_parts,
)
from engine.training.feed import Request, make_batch

_CHECKPOINT, _LOG, _META = "checkpoint.pt", "log.jsonl", "meta.json"
STEPS = 450
ROW_TOKENS = 2048  # of a step
EVERY = 4  # positions with one anchor among them
_WARM_UP_STEPS = 15
_FULL_UNTIL = 0.3  # part of the steps after which the rate falls, linearly
_LAST_RATE = 0.01
# Exams mostly; every fourth step one long row, half of which is a story.
_MIXES = ("exam", "exam", "exam", "long")
_SHORT_ROW = 512
HELD_OUT_SEED = 999
_LOG_STEPS, _EVALUATIONS = 10, 12


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="engine.training.dspark.train", description="Train the nano model's DSpark head."
    )
    p.add_argument("--out", type=Path, required=True, help="folder for log, checkpoint, weights")
    p.add_argument("--steps", type=int, default=STEPS)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--dtype", choices=("bfloat16", "float32"), default="float32")
    p.add_argument("--batch-tokens", type=int, default=ROW_TOKENS, help="tokens per step")
    p.add_argument("--threads", type=int, help="threads of torch")
    p.add_argument("--checkpoint-minutes", type=float, default=5.0)
    p.add_argument("--resume", action="store_true", help="go on from checkpoint.pt")
    p.add_argument("--until", type=int, help="end after this step of the schedule of --steps")
    return p


def rate_at(progress: float, step: int) -> float:
    """Learning rate of a step relative to the full one."""
    warm = min(1.0, (step + 1) / _WARM_UP_STEPS)
    return warm * min(1.0, max((1 - progress) / (1 - _FULL_UNTIL), _LAST_RATE))


def request_of(step: int, batch_tokens: int) -> Request:
    """The rows of a step."""
    mix = _MIXES[step % len(_MIXES)]
    n_col = batch_tokens if mix == "long" else _SHORT_ROW
    return Request(mix, max(batch_tokens // n_col, 1), n_col)


class Run:
    """One training run.

    Raises
    ------
    OptionError
        If an argument is out of range, or the folder holds a run that is not to be resumed.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        check_positive(args, "steps", "batch_tokens", "threads", "until")
        if args.batch_tokens % _SHORT_ROW:
            raise OptionError(
                f"batch_tokens: expected a multiple of {_SHORT_ROW}, found {args.batch_tokens}"
            )
        self.checkpoint = checkpoint_path(args.out / _CHECKPOINT, args.resume)
        args.out.mkdir(parents=True, exist_ok=True)
        self.step = self.n_anchor = 0
        self.before = 0.0
        self.begin = time.monotonic()
        self._build()

    def _build(self) -> None:
        import torch

        from engine.models.dspark import nano_dspark
        from engine.training.dspark.frozen import (
            SHARED,
            drafter_specs,
            frozen_trunk,
            initial_drafter,
        )
        from engine.training.dspark.net import DsparkNet
        from engine.training.optim import Optimizer

        args = self.args
        if args.threads:
            torch.set_num_threads(args.threads)
        dtype = getattr(torch, args.dtype)
        self.trunks = [frozen_trunk(recipe, dtype) for recipe in RECIPES]
        weights = initial_drafter(args.seed)
        saved = None
        if args.resume:
            saved = torch.load(self.checkpoint, weights_only=True)
            if (saved["seed"], saved["steps"]) != (args.seed, args.steps):
                raise OptionError(
                    f"resume: expected seed {saved['seed']} and {saved['steps']} steps as before,"
                    f" found {args.seed} and {args.steps}"
                )
            weights.update(saved["weights"])
            self.step, self.n_anchor = saved["step"], saved["n_anchor"]
            self.before = saved["seconds"]
        self.names = list(weights)
        self.optimizer = Optimizer(weights, drafter_specs(), nano(), torch.device("cpu"))
        if saved is not None:
            self.optimizer.load_state(saved["optimizer"])
        # The trunk's recipes differ in the formats of experts only.
        weights.update({name: self.trunks[0].w[name] for name in SHARED})
        self.net = DsparkNet(nano(), nano_dspark(), weights, dtype)

    def seconds(self) -> float:
        """Time used so far, earlier processes included."""
        return self.before + time.monotonic() - self.begin

    def train(self) -> None:
        """Train to the end and write the weights."""
        args = self.args
        saved_at = self.seconds()
        recent: list[Any] = []
        losses: list[float] = []
        held_out_every = max(args.steps // _EVALUATIONS, 1)
        last = min(args.steps, args.until or args.steps)
        while self.step < last:
            loss, slots = self._one_step()
            recent.append(slots)
            losses.append(loss)
            if self.step % _LOG_STEPS == 0 or self.step == last:
                self._log_training(recent, losses)
                recent, losses = [], []
            if self.step % held_out_every == 0 and self.step < last:
                self._write_line(self.held_out(("exam",), 2))
            if self.seconds() - saved_at >= 60 * args.checkpoint_minutes:
                self._save_checkpoint()
                saved_at = self.seconds()
        self.last = self.held_out(("exam", "long"), 3)
        self._write_line(self.last)
        self._save_weights()

    def _one_step(self) -> tuple[float, Any]:
        import torch

        from engine.training.dspark.losses import draw_anchors, dspark_loss
        from engine.training.losses import balance

        request = request_of(self.step, self.args.batch_tokens)
        made = make_batch(request, self.args.seed, self.step)
        batch = torch.from_numpy(made.astype(np.int64))
        # Steps of every mix meet both recipes.
        trunk = self.trunks[(self.step + self.step // len(_MIXES)) % len(self.trunks)]
        taps, logits = trunk.tapped(batch[0], batch[2])
        mixed = np.random.SeedSequence([self.args.seed, self.step]).generate_state(1)
        seed = int(mixed[0])
        anchors = draw_anchors(request.n_row, request.n_col, EVERY, self.net.spark.block, seed)
        self.optimizer.set_step(self.step, rate_at(self.step / self.args.steps, self.step))
        self.optimizer.zero_grad()
        loss, slots = dspark_loss(self.net, taps, logits, batch, anchors)
        loss.backward()
        self.optimizer.step()
        balance(self.net, self.optimizer.rate)
        self.net.forget()
        self.step += 1
        self.n_anchor += anchors.numel()
        return float(loss.detach()), slots

    def held_out(self, mixes: tuple[str, ...], n_batch: int) -> dict[str, Any]:
        """Figures on documents that are in no training batch, by recipe and kind of text."""
        import torch

        from engine.training.dspark.losses import draw_anchors, dspark_loss, summary

        line: dict[str, Any] = {"step": self.step, "anchors": self.n_anchor, "held_out": True}
        for recipe, trunk in zip(RECIPES, self.trunks):
            for mix in mixes:
                found = []
                for number in range(n_batch):
                    made = make_batch(Request(mix, 2, 1024), HELD_OUT_SEED, number)
                    batch = torch.from_numpy(made.astype(np.int64))
                    taps, logits = trunk.tapped(batch[0], batch[2])
                    anchors = draw_anchors(2, 1024, 8, self.net.spark.block, number)
                    with torch.no_grad():
                        found.append(dspark_loss(self.net, taps, logits, batch, anchors)[1])
                    self.net.forget()
                line[f"{recipe}_{mix}"] = summary(found)
        return line

    def _log_training(self, recent: list[Any], losses: list[float]) -> None:
        from engine.training.dspark.losses import summary

        progress = self.step / self.args.steps
        line = {
            "step": self.step,
            "anchors": self.n_anchor,
            "seconds": round(self.seconds(), 1),
            "rate": round(rate_at(progress, self.step), 4),
            "grad_norm": round(float(self.optimizer.grad_norm), 4),
            "loss": round(sum(losses) / len(losses), 4),
            **summary(recent),
        }
        self._write_line(line)

    def _write_line(self, line: dict[str, Any]) -> None:
        with (self.args.out / _LOG).open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)

    def _save_checkpoint(self) -> None:
        import torch

        state = {
            "seed": self.args.seed,
            "steps": self.args.steps,
            "step": self.step,
            "n_anchor": self.n_anchor,
            "seconds": self.seconds(),
            "weights": {name: self.net.w[name].detach().clone() for name in self.names},
            "optimizer": self.optimizer.state(),
        }
        replace_file(self.checkpoint, lambda file: torch.save(state, file))

    def _save_weights(self) -> None:
        import torch

        save_parts(self.args.out, {name: self.net.w[name].detach().numpy() for name in self.names})
        meta = {
            "seed": self.args.seed,
            "steps": self.step,
            "schedule": self.args.steps,
            "anchors": self.n_anchor,
            "seconds": round(self.seconds(), 1),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "dtype": self.args.dtype,
            "tokens_per_step": self.args.batch_tokens,
            "trunks": list(RECIPES),
            "held_out": {k: v for k, v in self.last.items() if isinstance(v, dict)},
        }
        text = json.dumps(meta, indent=2) + "\n"
        replace_file(self.args.out / _META, lambda file: file.write(text.encode()))


def main(argv: list[str] | None = None) -> int:
    """Run; returns the exit status."""
    try:
        Run(arguments().parse_args(argv)).train()
    except EngineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
