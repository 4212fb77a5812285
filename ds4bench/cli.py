"""The `ds4-bench` command: its subcommands are loaded when called; without one it sweeps."""

from __future__ import annotations

from engine.tooling.program import Program

COMMANDS = {
    "sweep": (
        "ds4bench.commands.sweep:sweep_command",
        "Measure speed at growing contexts (the default command).",
    ),
    "plot": ("ds4bench.commands.plot:plot_command", "Draw results files as SVG or PNG."),
    "compare": (
        "ds4bench.commands.compare:compare_command",
        "Judge HEAD against BASE, with an exit status.",
    ),
    "ab": ("ds4bench.commands.ab:ab_command", "Measure two set-ups in turns and judge them."),
    "calibrate": (
        "ds4bench.commands.calibrate:calibrate_command",
        "Measure this machine's noise floor (A against A).",
    ),
    "report": (
        "ds4bench.commands.report:report_command",
        "Write one HTML page and a Markdown summary of results.",
    ),
    "export": (
        "ds4bench.commands.export:export_command",
        "Write a sweep as another file, on request one that you can post.",
    ),
    "doctor": (
        "ds4bench.commands.doctor:doctor_command",
        "Say what this machine's figures depend on, and whether it is fit to measure.",
    ),
    "history": (
        "ds4bench.commands.history:history_command",
        "List, prune and draw the runs that a history file keeps.",
    ),
    "peer": (
        "ds4bench.peer.run:peer_command",
        "Measure our engine and llama.cpp on the same file and tokens.",
    ),
    "gpu": (
        "ds4bench.commands.gpu:gpu_command",
        "Measure steps, kernels and all modes of the CUDA backend at full size.",
    ),
    "panel": (
        "ds4bench.commands.panel:panel_command",
        "Explain speeds by kind of text: acceptance, cost of a step, break-even.",
    ),
    "residency": (
        "ds4bench.commands.residency:residency_command",
        "Show which weights a CUDA device copies, and which stay in the file.",
    ),
}

main = Program(
    "ds4-bench",
    lazy=COMMANDS,
    default="sweep",
    help="Measure prefill and decode speed at growing context lengths, and judge what was "
    "measured.",
)

if __name__ == "__main__":
    main()
