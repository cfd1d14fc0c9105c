"""Entry point of `ouro`; of several processes that torchrun started, the first one speaks."""

from __future__ import annotations

import os
from contextlib import ExitStack, redirect_stderr, redirect_stdout

import typer

from ouro.cli import bench, commands, paper, sweeps

app = typer.Typer(
    name="ouro",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Data-free quantization of Vision Mamba models: look, synthesize, quantize, evaluate.",
)
bench_app = typer.Typer(no_args_is_help=True, help="Speed, measured only behind a correctness gate, and sweeps.")
app.add_typer(bench_app, name="bench")
for command in commands.COMMANDS:
    app.command()(command)
for name, command in (*sweeps.COMMANDS.items(), *bench.COMMANDS.items()):
    bench_app.command(name)(command)
paper_app = typer.Typer(
    no_args_is_help=True, help="Figures and tables of the papers: what holds here, and what measures it."
)
app.add_typer(paper_app, name="paper")
for name, command in paper.COMMANDS.items():
    paper_app.command(name)(command)


def main() -> None:
    """Runs the command that was asked for."""
    try:
        _run()
    except KeyboardInterrupt:
        # before or after the command itself, which says what is kept
        typer.echo("stopped", err=True)
        raise SystemExit(1) from None


def _run() -> None:
    # torchrun numbers its processes; what connects them imports torch, which --help does without
    if "RANK" not in os.environ:
        return app()
    from ouro.jobs.distributed import joined

    with ExitStack() as stack:
        if os.environ["RANK"] != "0":
            nowhere = stack.enter_context(open(os.devnull, "w"))
            stack.enter_context(redirect_stdout(nowhere))
            stack.enter_context(redirect_stderr(nowhere))
        stack.enter_context(joined())
        app()
