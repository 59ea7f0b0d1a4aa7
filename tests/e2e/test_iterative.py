"""A recipe that prunes in rounds, from the command's function to the report, and again from the store."""

from pathlib import Path

from paretune import run
from paretune.recipe import parse_recipe
from paretune.report import html
from paretune.task import Task

FIXED = {"precision": "float32", "layout": "contiguous", "warmup": 0.0, "epochs": 1, "lr": 1e-3}


def test_rounds_are_in_the_report_also_where_they_come_from_the_store(trained_task: Task, tmp_path: Path):
    iterative = {
        "prune": {"prune.channels": {"macs": 0.5}},
        "recover": {"distill": FIXED},
        "rounds": 2,
        "teacher": "ensemble",
    }
    recipe = parse_recipe({"steps": [{"prune.iterative": iterative}]})
    pages = []
    for name in ("first", "again"):
        run(recipe, trained_task, out=tmp_path / name)
        pages.append(html(tmp_path / name))
    for page in pages:
        assert "Rounds of pruning" in page and "round 2" in page and "ensemble" in page
        assert page.count('<th scope="row">round') == 2
