"""`tvmerge verify OUT`: is every byte of an output what its receipt says?"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import click

from tvmerge.cli.options import RunFlags, run_options
from tvmerge.cli.printing import print_json, size
from tvmerge.cli.progress import shown
from tvmerge.errors import FormatError
from tvmerge.files.untrusted import printable
from tvmerge.receipts.parsing import read_receipt
from tvmerge.receipts.verify import Fault, Verification
from tvmerge.receipts.verify import verify as check
from tvmerge.replay import replay as merge_again

_LISTED = 20


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--inputs", is_flag=True, help="Check that the inputs are still what they were.")
@click.option("--replay", is_flag=True, help="Merge again, without writing, and compare.")
@run_options
def verify(out: Path, inputs: bool, replay: bool, flags: RunFlags) -> None:
    """Check that every byte of the output folder OUT is what its receipt says.

    Reads each file once. Changed, missing and added files are listed, and the exit code is 3.
    --replay computes the merge again from the recorded inputs, which it checks on the way.
    """
    started = time.monotonic()
    receipt = read_receipt(out)
    with shown("verify", quiet=flags.quiet) as progress:
        options = flags.run_options(progress)
        found = check(out, receipt, inputs=inputs and not replay, options=options)
    replayed: tuple[Fault, ...] = ()
    if replay:
        with shown("replay", quiet=flags.quiet) as progress:
            replayed = merge_again(receipt, options=flags.run_options(progress))
    seconds = time.monotonic() - started
    if flags.as_json:
        print_json(_plain(found, replayed if replay else None, seconds))
    _refuse(out, [*found.faults, *replayed], flags)
    if not flags.quiet and not flags.as_json:
        again = " Merged again, the same comes out." if replay else ""
        click.echo(
            f"{out}: {found.files} files, {size(found.bytes_read)}, every byte as in the receipt "
            f"({seconds:.2f} s).{again}"
        )


def _refuse(out: Path, faults: Sequence[Fault], flags: RunFlags) -> None:
    if not faults:
        return
    if flags.as_json:  # which has told them all
        click.get_current_context().exit(FormatError.exit_code)
    lines = [printable(str(fault)) for fault in faults[:_LISTED]]
    if len(faults) > _LISTED:
        lines.append(f"... and {len(faults) - _LISTED} more (--json has all)")
    raise FormatError(
        f"{out}: is not what its receipt says:\n  "
        + "\n  ".join(lines)
        + "\nRestore the files from where they came, or merge again"
    )


def _plain(
    found: Verification, replayed: tuple[Fault, ...] | None, seconds: float
) -> dict[str, object]:
    def plain(faults: Sequence[Fault]) -> list[dict[str, str]]:
        return [{"file": fault.file, "what": fault.what} for fault in faults]

    return {
        "intact": found.intact and not replayed,
        "files": found.files,
        "bytes_read": found.bytes_read,
        "faults": plain(found.faults),
        "replay": None if replayed is None else {"same": not replayed, "faults": plain(replayed)},
        "seconds": seconds,
    }
