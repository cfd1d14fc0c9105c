"""`python -m ouro` is the `ouro` command."""

from ouro.cli import main

main()
