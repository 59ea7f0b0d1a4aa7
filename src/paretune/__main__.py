"""`python -m paretune` is the command `paretune`."""

from paretune.cli import main

main()
