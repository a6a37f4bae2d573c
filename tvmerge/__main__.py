"""`python -m tvmerge` is the `tvmerge` command."""

from tvmerge.cli import main

main()
