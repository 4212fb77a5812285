"""One training step on fixed memory: computed directly, or on a GPU recorded once and replayed."""

from __future__ import annotations

import numpy as np
import torch

from engine.training.losses import FIGURES, balance, class_weights, training_loss
from engine.training.net import Net
from engine.training.optim import Optimizer

_DIRECT_STEPS = 3  # before recording: libraries choose their kernels in the first ones


class Step:
    """Steps of one kind of batch.

    Parameters
    ----------
    net : Net
    optimizer : Optimizer
    n_row, n_col : int
    index : {0, 1, 2}
        See `Net.geometry`.
    record : bool
        Replay a CUDA graph after a few steps; where recording fails, say so and go on directly.
    """

    def __init__(
        self, net: Net, optimizer: Optimizer, n_row: int, n_col: int, index: int, record: bool
    ) -> None:
        self.net = net
        self.optimizer = optimizer
        self.index = index
        self.device = optimizer.rate.device
        self.totals = torch.zeros((len(FIGURES), 2), device=self.device)
        self._batch = torch.zeros((3, n_row, n_col), dtype=torch.int64, device=self.device)
        self._table = class_weights(self.device)
        self._record = record
        self._n_direct = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._stream = torch.cuda.Stream() if record else None

    def run(self, batch: np.ndarray, number: int, rate: float) -> None:
        """Train on one batch.

        Parameters
        ----------
        batch : uint16 array of shape (3, n_row, n_col)
            See `feed.make_batch`.
        number : int
            Of the step, from 0.
        rate : float
            Learning rate relative to the full one.
        """
        host = torch.from_numpy(batch.astype(np.int64))
        if self.device.type == "cuda":
            host = host.pin_memory()
        self._batch.copy_(host, non_blocking=True)
        self.optimizer.set_step(number, rate)
        if self._graph is not None:
            self._graph.replay()
            return
        if self._stream is None:
            self._body()
            return
        # Recording happens on another stream than the default one, and so must what precedes it.
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            self._body()
        torch.cuda.current_stream().wait_stream(self._stream)
        self._n_direct += 1
        if self._n_direct == _DIRECT_STEPS:
            self._try_record()

    def _try_record(self) -> None:
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self._stream):
                self._body()
            self._graph = graph
        except RuntimeError as error:
            print(f"step not recorded, going on without: {error}", flush=True)
        self._stream = None

    def _body(self) -> None:
        self.optimizer.zero_grad()
        ids, cls, doc = self._batch
        loss, figures = training_loss(self.net, ids, cls, doc, self.index, self._table)
        loss.backward()
        self.optimizer.step()
        balance(self.net, self.optimizer.rate)
        self.net.forget()
        self.totals.add_(figures)

    def figures(self) -> dict[str, float | None]:
        """Means per figure since the last call, None where nothing was counted; waits."""
        totals = self.totals.tolist()
        self.totals.zero_()
        return {name: s / n if n else None for name, (s, n) in zip(FIGURES, totals)}
