"""A worker without a model: costs are arithmetic on a fake clock, faults are chosen by a file.

The environment variable DS4_FAKE names a JSON file with any of: signal, hang, error, nonfinite,
lost, oom, status, compile, stall (each {"mode", "ctx"}: strike in that decode, mode "prefill"
strikes there),
differ (a mode whose tokens differ), zero_accept, sleep_s, load_s (seconds of a load), device
(there is one, and it copies),
once (a file: the fault strikes only while it is absent).
"""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from ds4bench.plan import Prompt, SweepPlan
from ds4bench.worker.facts import Bandwidth, FileFacts, FileStat, MemoryNeed, ModelFacts
from ds4bench.worker.messages import Copies, DeviceCounters, EngineFacts
from ds4bench.worker.worker import Worker
from engine.errors import DeviceLostError, EngineError, MemoryBudgetError, NonFiniteError
from engine.options import MODES
from engine.spec.protocol import StepResult

EOS = 1
FAULTS = ("signal", "hang", "error", "nonfinite", "lost", "oom", "status", "compile", "stall")
SAVE_S = 1000  # seconds that the fake clock charges for each save and restore


class FakeClock:
    """Nanoseconds that pass only when somebody charges them."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now

    def charge(self, seconds: float) -> None:
        self.now += round(seconds * 1e9)


@dataclass
class FakeSnapshot:
    tokens: list[int]

    @property
    def n_bytes(self) -> int:
        return 1000 + 64 * len(self.tokens)


class FakeSession:
    def __init__(self, model: FakeModel, ctx: int) -> None:
        self.model = model
        self.ctx = ctx
        self.tokens: list[int] = []

    @property
    def n_past(self) -> int:
        return len(self.tokens)

    def sync(self, tokens) -> int:
        assert list(tokens[: self.n_past]) == self.tokens
        new = len(tokens) - self.n_past
        assert len(tokens) <= self.ctx
        self.tokens = list(tokens)
        self.model.strike("prefill", self.n_past)
        self.model.clock.charge(new * 0.001 + self.n_past * new * 1e-8)
        return new

    def save(self) -> FakeSnapshot:
        self.model.clock.charge(SAVE_S)
        return FakeSnapshot(list(self.tokens))

    def restore(self, saved: FakeSnapshot) -> None:
        self.model.clock.charge(SAVE_S)
        self.tokens = list(saved.tokens)


class FakeDecoder:
    """Emits tokens that depend on the place only; speculative ones two at a time."""

    def __init__(self, session: FakeSession, mode: str) -> None:
        self.session = session
        self.mode = mode
        self.base = session.n_past

    def start(self) -> int:
        return self._token(self.session.n_past)

    def step(self, first: int, budget: int) -> StepResult:
        session, model = self.session, self.session.model
        model.strike(self.mode, self.base, session.n_past - self.base)
        wide = self.mode != "plain" and budget > 1 and not model.faults.get("zero_accept")
        n = 2 if wide else 1
        tokens = [first, self._token(session.n_past + 1)][:n]
        session.tokens += tokens
        # The first step of a window is twice as slow, as on a cold cache.
        cold = 2 if session.n_past - n == self.base else 1
        model.clock.charge(cold * (0.05 + 0.02 * (n - 1) + session.n_past * 1e-6))
        drafted = 0 if self.mode == "plain" else 1
        return StepResult(
            tokens=tokens,
            next=self._token(session.n_past),
            drafted=drafted,
            accepted=n - 1,
            draft_s=0.01 * drafted,
            verify_s=0.04,
            rollback_s=0.0,
        )

    def _token(self, place: int) -> int:
        return 100 + (place * 7919 + (self.mode == self.session.model.faults.get("differ"))) % 5000


class FakeModel:
    forbidden = frozenset({EOS})

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.asked = 0
        self.compilations = 0
        self.faults = {}
        if os.environ.get("DS4_FAKE"):
            self.faults = json.loads(Path(os.environ["DS4_FAKE"]).read_text())

    def strike(self, mode: str, ctx: int, step: int = 0) -> None:
        """The fault that the test asked for, if this is its place."""
        if self.faults.get("sleep_s"):
            time.sleep(self.faults["sleep_s"])
        once = self.faults.get("once")
        for name in FAULTS:
            fault = self.faults.get(name)
            if not fault or fault["mode"] != mode or fault.get("ctx", ctx) != ctx:
                continue
            if once:
                if os.path.exists(once):
                    continue
                Path(once).touch()
            if name == "signal":
                os.kill(os.getpid(), getattr(signal, fault["name"]))
            elif name == "hang":
                time.sleep(600)
            elif name == "error":
                raise EngineError("fake: expected luck, found none")
            elif name == "lost":
                raise DeviceLostError("device: expected its work to finish, found error 700")
            elif name == "oom":
                raise MemoryBudgetError("device memory: expected enough, found none left")
            elif name == "compile":
                self.compilations += 1
            elif name == "stall":
                self.clock.charge(6.0 if step == 0 else 0.0)
            elif name == "status":
                os._exit(fault["code"])
            else:
                raise NonFiniteError("logits: expected finite values, found 3 that are not")

    def counters(self) -> DeviceCounters | None:
        """Of a device that copies 10 bytes in 2 copies each time it is asked, if there is one."""
        if "device" not in self.faults:
            return None
        self.asked += 1
        return DeviceCounters(Copies(10 * self.asked, 2 * self.asked), {"decode, 1 rows": 700})

    def inspect(self, plan: SweepPlan) -> ModelFacts:
        if not plan.model.exists():
            raise EngineError(f"{plan.model}: expected a model, found none")
        info = plan.model.stat()
        place = FileStat(str(plan.model), info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns)
        files = [FileFacts("sha256:fake", place.path, place.size, "fake", "header", (place,))]
        if plan.mtp is not None:
            files.append(
                FileFacts("sha256:draft", place.path, place.size, "draft", "header", (place,))
            )
        return ModelFacts(
            name="fake",
            n_ctx_train=self.faults.get("n_ctx_train", 1 << 20),
            n_vocab=6000,
            n_layer=1,
            has_mtp=True,
            has_dspark=True,
            implemented_modes=tuple(self.faults.get("modes", MODES)),
            model_id=files[0].id,
            mtp_id=None if plan.mtp is None else files[1].id,
            files=tuple(files),
            decode_bytes={frontier: 1e8 + frontier for frontier in plan.frontiers},
            memory=MemoryNeed(
                mapped=self.faults.get("mapped_bytes", 10**8),
                context=self.faults.get("context_bytes", 1000),
                scratch=1000,
                snapshot=1000,
            ),
            weight_bytes=self.faults.get("weight_bytes", 1000),
            free_device_bytes=None,
            effective={"repacked": self.faults.get("repacked", False)},
        )

    def encode_prompt(self, prompt: Prompt, n_tokens: int, text_class: str = "") -> list[int]:
        if prompt.path is None:
            return [10 + i % 50 for i in range(n_tokens)]
        return [10 + b % 50 for b in prompt.text.encode()]

    def load(self, plan: SweepPlan) -> EngineFacts:
        time.sleep(self.faults.get("load_s", 0))
        return EngineFacts({"backend": "fake"}, ("fake: a notice",))

    def bandwidth(self, plan: SweepPlan) -> Bandwidth:
        return Bandwidth(1e10, 1)

    def compiled(self) -> int:
        return self.compilations

    def reach(self, plan: SweepPlan) -> int:
        return self.faults.get("reach", 0)

    def session(self, ctx: int) -> FakeSession:
        return FakeSession(self, ctx)

    def decoder(self, session: FakeSession, mode: str, plan: SweepPlan) -> FakeDecoder:
        return FakeDecoder(session, mode)

    def step_bytes(self, mode: str, n_ctx: int, tokens, drafted) -> float:
        return 1e8 + n_ctx


def open_worker() -> Worker[FakeSession]:
    """What `python -m ds4bench.worker.main tests.ds4bench.fakes:open_worker` runs."""
    model = FakeModel()
    return Worker(model, model.clock)


SPEC = "tests.ds4bench.fakes:open_worker"
