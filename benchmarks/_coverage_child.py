"""The process that tries one model of `surgery_coverage.py`.

python benchmarks/_coverage_child.py torchvision/resnet18          # prunes it and prints its row
python benchmarks/_coverage_child.py torchvision/resnet18 --peer   # the same by torch-pruning
python benchmarks/_coverage_child.py --list
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import torch

from _coverage_models import names


def main() -> None:
    """Try one model and print its row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?")
    parser.add_argument("--list", action="store_true", help="print the names")
    parser.add_argument("--held-out", action="store_true", help="with --list: the models beyond the benchmark")
    parser.add_argument("--peer", action="store_true", help="prune with torch-pruning instead")
    parser.add_argument("--reload", metavar="FOLDER", help="rebuild what another process saved there, and compare")
    options = parser.parse_args()
    if options.list:
        print("\n".join(names(options.held_out)))
        return
    if not options.name:
        parser.error("give a name, or --list")
    # The parameters, not the process, are what is spared: one model at a time shares the machine with others.
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    if options.reload:
        from _coverage_checks import reloaded

        row = reloaded(options.name, Path(options.reload))
    elif options.peer:
        from _coverage_peer import peer_row

        row = peer_row(options.name)
    else:
        from _coverage_checks import row_of

        row = row_of(options.name)
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
