"""`python -m paretune.cli` is the command `paretune`."""

from paretune.cli import main

main()
