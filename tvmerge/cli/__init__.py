"""The `tvmerge` command: loads a subcommand only when it is called, turns errors to exit codes.

Results go to stdout; messages and progress go to stderr.
"""

from __future__ import annotations

import gc
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from types import FrameType
from typing import Any, NoReturn

import click

from tvmerge.engine.garbage import uncollected
from tvmerge.errors import INTERRUPTED_EXIT_CODE, StorageError, TVMergeError, did_you_mean
from tvmerge.files.untrusted import printable
from tvmerge.version import __version__

# A second Ctrl-C within this time does not cut off the clean-up that the first one began.
_SIGNAL_PAUSE_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class _Target:
    place: str  # "module:attribute"
    summary: str


COMMANDS = {
    "vector": _Target("tvmerge.cli.vector:vector", "Store a task vector: TUNED - BASE."),
    "compress": _Target("tvmerge.cli.compress:compress", "Store a task vector in less space."),
    "apply": _Target("tvmerge.cli.apply:apply", "Add or subtract task vectors: BASE + sum."),
    "merge": _Target("tvmerge.cli.merge:merge", "Run a merge recipe (mergekit's YAML)."),
    "sweep": _Target("tvmerge.cli.sweep:sweep", "Run a recipe at several scales at once."),
    "plan": _Target("tvmerge.cli.plan:plan", "Say what a merge will take, or why it cannot run."),
    "inspect": _Target("tvmerge.cli.inspect:inspect", "Say what a checkpoint holds."),
    "verify": _Target("tvmerge.cli.verify:verify", "Check an output against its receipt."),
    "diff": _Target("tvmerge.cli.diff:diff", "Measure how two checkpoints differ."),
    "bench": _Target("tvmerge.cli.bench:bench", "Time a merge on this machine."),
    "devices": _Target("tvmerge.cli.devices:devices", "List the cards that can compute."),
    "study": _Target("tvmerge.training.cli:study", "Train, negate and measure traits."),
}


class Commands(click.Group):
    """The subcommands of COMMANDS, imported when called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the subcommand; None where there is none of that name."""
        target = COMMANDS.get(cmd_name)
        if target is None:
            return None
        module, attribute = target.place.split(":")
        # What is imported stays: looking through it for garbage took a tenth of the start.
        with uncollected():
            command = getattr(import_module(module), attribute)
        gc.freeze()
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with a suggestion for a mistyped name."""
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            hint = did_you_mean(args[0], COMMANDS)
            raise click.UsageError(f"No such command {args[0]!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, target.summary) for name, target in COMMANDS.items()])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the exit codes."""
        rows = [("0", "done"), ("1", "an error not listed below")]
        for kind in sorted(TVMergeError.__subclasses__(), key=lambda kind: kind.exit_code):
            rows.append((str(kind.exit_code), (kind.__doc__ or "").strip().rstrip(".")))
        rows.append((str(INTERRUPTED_EXIT_CODE), "interrupted; the same command goes on"))
        with formatter.section("Exit codes"):
            formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the subcommand; what it raises on purpose becomes a message and an exit code."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            kept = f". {interrupt}" if str(interrupt) else ""
            _end(ctx, f"Interrupted{kept}", INTERRUPTED_EXIT_CODE)
        except BrokenPipeError:
            raise  # click ends quietly when the reader of a pipe has gone
        except TVMergeError as error:
            _end(ctx, f"Error: {error}", error.exit_code)
        except OSError as error:
            _end(ctx, f"Error: {error}", StorageError.exit_code)
        except ImportError as error:
            missing = (error.name or "").partition(".")[0]
            if missing in ("", "tvmerge"):
                raise  # a fault of ours, not a package that was left out
            message = (
                f"Error: this needs the package {missing}, which is not installed. "
                f"Install it alone, pip install {missing}, or with all that a study needs, "
                "pip install 'tvmerge[study]'"
            )
            _end(ctx, message, TVMergeError.exit_code)


def _end(ctx: click.Context, message: str, exit_code: int) -> NoReturn:
    # Names of files and tensors are in it, which their authors may have chosen for a terminal.
    click.echo("\n".join(map(printable, message.split("\n"))), err=True)
    ctx.exit(exit_code)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="tvmerge", message="%(prog)s %(version)s")
def cli() -> None:
    """Task vectors and model merging over checkpoints, at the speed of the disk.

    Models are folders, files (.safetensors, .bin, .pt), indices, or ids of the Hugging Face hub.
    Nothing is overwritten; an output appears whole or not at all.
    """


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit."""
    _interrupt_on_signals()
    try:
        cli.main(args, prog_name="tvmerge")
    except KeyboardInterrupt:  # after the command has returned
        sys.exit(INTERRUPTED_EXIT_CODE)
    finally:
        gc.freeze()  # nor is there a need to look for it at the end
    raise AssertionError("click exits by itself")


def _interrupt_on_signals() -> None:
    last = -_SIGNAL_PAUSE_SECONDS

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _SIGNAL_PAUSE_SECONDS:
            last = now
            raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Whoever started us with a signal ignored (nohup) wants it ignored.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, interrupt)
