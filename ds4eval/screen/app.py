"""The Textual application: runs the exam in a thread and draws its events twelve times a second.

When the run is over it stays, to be read, until somebody leaves it. A run that was over before is
the same screen over events that say so.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterable

from rich.text import Text as Line
from textual import events as textual_events
from textual.app import App, ComposeResult
from textual.widgets import Static

from ds4eval.control import Control
from ds4eval.events import Ended, Event, Finished
from ds4eval.screen.draw import layout, left_lines, reply_window, right_lines, scroll_rows
from ds4eval.screen.state import SCREENFULS, SCROLLS, View

FRAME_S = 1 / 12
WHEEL = 3  # lines


class EvalApp(App[None]):
    """Draws a `View`, passes keys to it and what they mean to the run's control."""

    CSS = """
    Screen { layout: horizontal; background: $background; }
    Screen.narrow { layout: vertical; }
    #left, #right { height: 100%; padding: 0; }
    #left { border-right: solid $surface-lighten-2; }
    Screen.narrow #left { border-right: none; border-bottom: solid $surface-lighten-2; }
    """
    ENABLE_COMMAND_PALETTE = False
    BINDINGS = []  # noqa: RUF012 - Textual's own form; every key goes to `on_key`

    def __init__(
        self,
        source: Iterable[Event],
        control: Control,
        pause_s: float = 0.0,
        *,
        stay: bool = True,
        view: View | None = None,
    ) -> None:
        super().__init__()
        self.view = view or View()
        self.stay = stay
        self.control = control
        self.pause_s = pause_s
        self.ended: Ended | None = None
        self.error: BaseException | None = None
        self._source = source
        self._queue: deque[Event] = deque()
        self._thread = threading.Thread(target=self._consume, name="run", daemon=True)
        self._dirty = True
        self._ticked = time.monotonic()

    def compose(self) -> ComposeResult:
        yield Static("", id="left", markup=False)
        yield Static("", id="right", markup=False)

    def on_mount(self) -> None:
        self._thread.start()
        self.set_interval(FRAME_S, self._frame)

    def _consume(self) -> None:
        """The run's thread."""
        try:
            for event in self._source:
                self._queue.append(event)
                if isinstance(event, Finished):
                    self._rest()
        except BaseException as error:
            self.error = error
            self._queue.append(Ended("failed", str(error)))

    def _rest(self) -> None:
        """Leave a verdict on the screen for a moment."""
        until = time.monotonic() + self.pause_s
        while time.monotonic() < until and not self.control.interrupts():
            time.sleep(min(0.05, self.pause_s))

    def _frame(self) -> None:
        now = time.monotonic()
        passed, self._ticked = now - self._ticked, now
        if not self.view.paused and not self.view.ended:
            before = int(self.view.elapsed_s)
            self.view.elapsed_s += passed
            self._dirty |= int(self.view.elapsed_s) // 60 != before // 60
        while self._queue:
            event = self._queue.popleft()
            self.view.take(event)
            self._dirty = True
            if isinstance(event, Ended):
                self.ended = event
        if self._dirty:
            self._draw()
        if self.ended is not None and self._leaves(self.ended):
            self.exit()

    def _leaves(self, ended: Ended) -> bool:
        """Whether the screen goes: a run that went to its end stays to be read."""
        return not self.stay or ended.why != "done" or self.view.quitting or self.control.quitting

    def _draw(self) -> None:
        self._dirty = False
        columns, rows = self.size.width, self.size.height
        if columns < 1 or rows < 1:
            return
        parts = layout(columns, rows)
        self.screen.set_class(not parts.wide, "narrow")
        left, right = self.query_one("#left", Static), self.query_one("#right", Static)
        if parts.wide:
            left.styles.width, left.styles.height = parts.left + 1, rows
            right.styles.width, right.styles.height = "1fr", rows
        else:
            left.styles.width, left.styles.height = "100%", parts.list_rows + 1
            right.styles.width, right.styles.height = "100%", "1fr"
        left.update(Line("\n").join(left_lines(self.view, parts.left, parts.list_rows)))
        right.update(Line("\n").join(right_lines(self.view, parts.right, parts.reply_rows)))

    def on_resize(self, event: textual_events.Resize) -> None:
        self._dirty = True

    def on_key(self, event: textual_events.Key) -> None:
        event.stop()
        event.prevent_default()
        if event.key == "ctrl+c":
            # The same way as a signal from outside: saved, then status 130.
            os.kill(os.getpid(), signal.SIGINT)
            self.view.quitting = True
        elif self.view.typing is None and event.key in {**SCROLLS, **SCREENFULS}:
            self._scroll(SCROLLS.get(event.key, 0), SCREENFULS.get(event.key, 0))
        else:
            self._act(self.view.press(event.key, event.character))
        self._dirty = True

    def _scroll(self, lines: int, screenfuls: int = 0) -> None:
        """Move the reply on the right side."""
        if not self.view.jobs:
            return
        parts = layout(self.size.width, self.size.height)
        rows = scroll_rows(self.view, parts.right, parts.reply_rows)
        _, total = reply_window(self.view, parts.right, parts.reply_rows)
        self.view.scroll(lines + screenfuls * max(rows - 1, 1), rows, total)

    def on_mouse_scroll_down(self, event: textual_events.MouseScrollDown) -> None:
        self._wheel(event, 1)

    def on_mouse_scroll_up(self, event: textual_events.MouseScrollUp) -> None:
        self._wheel(event, -1)

    def _wheel(self, event: textual_events.MouseEvent, step: int) -> None:
        """Over the reply the wheel moves the reply, over the list the cursor."""
        parts = layout(self.size.width, self.size.height)
        right = event.screen_x > parts.left if parts.wide else event.screen_y > parts.list_rows
        if right:
            self._scroll(step * WHEEL)
        else:
            self._act(self.view.press("down" if step > 0 else "up"))
        self._dirty = True

    def _act(self, wish: tuple[str, int] | None) -> None:
        if wish is None:
            return
        kind, n = wish
        if kind == "pause":
            self.control.pause(self.view.paused)
        elif kind == "quit":
            self.control.quit()
        elif kind == "jump":
            self.control.pause(False)
            self.control.jump(n)

    async def action_quit(self) -> None:
        """Textual's own way out goes the same way as q."""
        self._act(self.view.press("q"))

    def wait(self) -> None:
        """Let the run's thread finish what it records."""
        self.control.quit()
        self._thread.join()


class TuiScreen:
    """Shows a run full-screen; see `ds4eval.screen.choose.RunScreen`."""

    def __init__(self, pause_s: float, stay: bool = True) -> None:
        self.pause_s = pause_s
        self.stay = stay

    def show(self, events: Iterable[Event], control: Control) -> Ended:
        app = EvalApp(events, control, self.pause_s, stay=self.stay)
        app.run()
        app.wait()
        if app.error is not None:
            raise app.error
        if app.ended is None:
            return Ended("quit")
        return app.ended
