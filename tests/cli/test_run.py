"""`paretune run`, from the recipe to the table, and what goes wrong on the way."""

import json

import pytest


def test_a_recipe_runs_from_training_to_the_table(cli, folder):
    result = cli("run", "recipe.yaml")
    assert result.exit_code == 0, result.output
    for name in ("baseline", "pruned", "distilled", "quantized"):
        assert name in result.stdout
    run = folder / "runs" / "recipe"
    for name in ("recipe.yaml", "events.jsonl", "summary.json", "report.html"):
        assert (run / name).is_file()
    assert f"folder  runs/{run.name}" in result.stdout
    assert "step 1 of 4, train" in result.stderr
    assert "epoch 2 of 2" in result.stderr
    check_that_a_second_run_takes_steps_from_the_cache(cli, folder)
    check_that_the_folder_is_refused_and_resumed(cli, run)


def check_that_a_second_run_takes_steps_from_the_cache(cli, folder):
    """The same recipe gets a folder of its own, and `--json` is one document."""
    result = cli("run", "recipe.yaml", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["folder"] == "runs/recipe-2"
    assert [row["name"] for row in document["candidates"]] == ["baseline", "pruned", "distilled", "quantized"]
    assert document["candidates"][0]["latency"]["verdict"] is None
    assert not any((folder / "runs" / "recipe-2" / "artifacts").glob("*.tmp"))


def check_that_the_folder_is_refused_and_resumed(cli, run):
    """A finished run is not overwritten; resuming it gives the same summary."""
    refused = cli("run", "recipe.yaml", "--out", run)
    assert refused.exit_code == 2
    assert f"--resume {run}" in refused.stderr
    before = (run / "summary.json").read_text()
    resumed = cli("run", "--resume", run, "--quiet")
    assert resumed.exit_code == 0, resumed.output
    assert resumed.stderr == ""
    assert (run / "summary.json").read_text() == before


def test_overrides_reach_the_steps_and_wrong_ones_are_told_together(cli, folder):
    result = cli(
        "run", "recipe.yaml", "--set", "train.epochs=0", "--set", "distil.epochs=1", "--set", "train.lrr=1"
    )
    assert result.exit_code == 2
    assert "epochs=0 must be at least 1" in result.stderr
    assert "no step 'distil'. Did you mean 'distill'?" in result.stderr
    assert "no field 'lrr'. Did you mean 'lr'?" in result.stderr
    assert not (folder / "runs").exists()


def test_a_recipe_is_checked_before_its_task_is_imported(cli, folder):
    (folder / "bad.yaml").write_text("task: nowhere.py:make\nsteps: [tran, {train: {epoch: 1}}]\nsed: 1\n")
    result = cli("run", "bad.yaml")
    assert result.exit_code == 2
    for message in ("no step 'tran'. Did you mean 'train'?", "no field 'epoch'. Did you mean 'epochs'?", "'sed'"):
        assert message in result.stderr
    assert "nowhere" not in result.stderr


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("quarter.py:make_task", "no file quarter.py. Did you mean 'quarters.py'?"),
        ("quarters.py:make_tsk", "has no 'make_tsk'. Did you mean 'make_task'?"),
        ("quarters.py:make_nothing", "returned a NoneType"),
        ("no_such_package:make_task", "cannot import no_such_package"),
        ("quarters", "write path/to/file.py:make_task"),
    ],
)
def test_a_task_that_cannot_be_made_is_bad_input(cli, folder, task, message):
    result = cli("run", "recipe.yaml", "--set", f"task={task}")
    assert result.exit_code == 2, result.output
    assert message in result.stderr


def test_a_missing_recipe_names_the_nearest(cli, folder):
    result = cli("run", "recpe.yaml")
    assert result.exit_code == 2
    assert "no recipe recpe.yaml. Did you mean 'recipe.yaml'?" in result.stderr


def test_a_loss_that_is_nan_fails_the_run(cli, folder):
    result = cli("train", "quarters.py:make_diverging", "--epochs", 1)
    assert result.exit_code == 5, result.output
    assert "NaN" in result.stderr or "nan" in result.stderr


def test_constraints_that_cannot_be_met_exit_with_3_and_show_the_best(cli, folder):
    result = cli("run", "recipe.yaml", "--set", "constraints.max_size=0.001x", "--out", "out")
    assert result.exit_code == 3, result.output
    assert "quantized" in result.stdout
    assert "infeasible: no candidate holds the constraints; the best that was reached is" in result.stderr


def test_resuming_nothing_is_bad_input(cli, folder):
    result = cli("run", "--resume", "runs/none")
    assert result.exit_code == 2
    assert "holds no run to resume" in result.stderr
