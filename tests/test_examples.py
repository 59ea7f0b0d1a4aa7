"""The examples that the README does not run are run here, as a user would."""

import re
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_mynet_l1_tells_each_epoch_and_what_is_left():
    made = subprocess.run(
        [sys.executable, EXAMPLES / "mynet_l1.py", "0.003"], capture_output=True, text=True, check=True
    )
    lines = made.stdout.splitlines()
    losses = [re.fullmatch(r"\[(\d+)\] train loss: (\d+\.\d{3})", line) for line in lines[:20]]
    assert all(losses) and [int(found[1]) for found in losses] == list(range(1, 21))
    assert float(losses[-1][2]) < float(losses[0][2])
    told = re.compile(r"(trained|threshold 0.01): (\d+) of 430 parameters left, accuracy (\d+\.\d) %")
    (whole, *_), (left, *_) = [told.fullmatch(line).group(2, 3) for line in lines[20:]]
    assert int(left) < 0.6 * int(whole)
    assert all(float(told.fullmatch(line)[3]) > 95 for line in lines[20:])
