"""What a stored study tells, as plain values: for a page, for `--json`."""
