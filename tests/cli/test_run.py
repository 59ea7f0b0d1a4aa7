"""`paretune run`, from the recipe to the table, and what goes wrong on the way."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from paretune.cli._flow import free_folder


def test_a_recipe_runs_from_training_to_the_table(infeasible_run):
    folder, result = infeasible_run
    for name in ("baseline", "quantized", "accuracy", "latency", "bytes", "MACs", "params"):
        assert name in result.stdout, result.output
    run = folder / "runs" / "recipe"
    for name in ("recipe.yaml", "events.jsonl", "summary.json", "report.html", "artifacts/quantized.onnx"):
        assert (run / name).is_file()
    assert "folder  runs/recipe\nreport  runs/recipe/report.html\n" in result.stdout
    for line in ("step 1 of 2, train", "epoch 2 of 2", "step 2 of 2, quantize.static", "measuring latency"):
        assert line in result.stderr
    assert "\x1b" not in result.output


def test_constraints_that_cannot_be_met_exit_with_3_and_show_the_best(infeasible_run):
    _, result = infeasible_run
    assert result.exit_code == 3
    assert "best    none" in result.stdout
    assert (
        "infeasible: no candidate holds the constraints; the best that was reached is 'quantized'" in result.stderr
    )


def test_a_finished_run_is_not_overwritten(finished, cli):
    result = cli("run", "recipe.yaml", "--out", "runs/recipe")
    assert result.exit_code == 2
    assert "--resume runs/recipe" in result.stderr


def test_a_resumed_run_measures_nothing_twice_and_ends_the_same(finished, cli):
    before = (finished / "runs/recipe/summary.json").read_text()
    result = cli("run", "--resume", "runs/recipe", "--json")
    assert result.exit_code == 3, result.output
    assert (finished / "runs/recipe/summary.json").read_text() == before
    document = json.loads(result.stdout)
    assert document.pop("folder") == "runs/recipe"
    assert document == json.loads(before)


def test_quiet_prints_the_result_only(finished, cli):
    result = cli("run", "--resume", "runs/recipe", "--quiet")
    assert result.stderr == ""
    assert "quantized" in result.stdout


def test_resuming_refuses_other_settings(finished, cli):
    result = cli("run", "--resume", "runs/recipe", "--set", "seed=3", "--device", "cpu")
    assert result.exit_code == 2
    assert "leave out --set, --device" in result.stderr


def test_the_next_run_gets_a_free_folder(finished):
    assert free_folder("recipe") == Path("runs/recipe-2")
    assert free_folder("other") == Path("runs/other")


def test_overrides_reach_the_steps_and_wrong_ones_are_told_together(cli, folder):
    result = cli("run", "recipe.yaml", "--set", "train.epochs=0", "--set", "tran.epochs=1", "--set", "train.lrr=1")
    assert result.exit_code == 2
    assert "epochs=0 must be at least 1" in result.stderr
    assert "no step 'tran'. Did you mean 'train'?" in result.stderr
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


def test_one_technique_is_a_recipe_of_one_step(cli, folder):
    result = cli("train", "quarters.py:make_task", "--epochs", 1, "--weight_decay", 0, "--seed", 3, "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["folder"] == "runs/train"
    (candidate,) = document["candidates"]
    assert (
        candidate["recipe"]["steps"][0]["train"] | {"epochs": 1, "weight_decay": 0}
        == candidate["recipe"]["steps"][0]["train"]
    )
    assert candidate["recipe"]["seed"] == 3


def test_wrong_options_of_a_technique_are_told_together_in_its_words(cli, folder):
    result = cli("train", "quarters.py:make_task", "--epochs", 0, "--lr", 50)
    assert result.exit_code == 2
    assert "paretune train: epochs=0 must be at least 1" in result.stderr
    assert "paretune train: lr=50 must be" in result.stderr
    result = cli("quantize", "quarters.py:make_task", "--calibrtion", 8)
    assert "Did you mean '--calibration'?" in result.stderr


def test_ctrl_c_prints_the_command_that_goes_on(folder):
    command = [sys.executable, "-m", "paretune", "train", "quarters.py:make_task", "--epochs", "900"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    seen = iter(process.stderr.readline, "")
    assert any("epoch 3 of 900" in line for line in seen)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.endswith("stopped: interrupted; continue with\n  paretune run --resume runs/train\n")
    assert "Traceback" not in err and out == ""
    assert (folder / "runs/train/recipe.yaml").is_file()


def test_resuming_nothing_is_bad_input(cli, folder):
    result = cli("run", "--resume", "runs/none")
    assert result.exit_code == 2
    assert "holds no run to resume" in result.stderr


def test_a_technique_takes_one_step(cli, folder):
    result = cli("prune", "quarters.py:make_task", "--step", "channels", "--step=blocks")
    assert result.exit_code == 2
    assert "--step: one step, not channels and blocks" in result.stderr
    assert not (folder / "runs").exists()
