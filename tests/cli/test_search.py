"""`paretune search`: a study from its file, looked at and taken along, and every mistake with its line."""

from __future__ import annotations

import csv
import json
import os
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from paretune.cli._study import opened

OBJECTIVE = '''
def bowl(config, budget):
    """A loss with its least value at x = 0.3."""
    if config["x"] > 0.95:
        raise ValueError("too far")
    return {"loss": (config["x"] - 0.3) ** 2 + 1 / budget, "size": 8 * config.get("depth", 1)}


def alone(config):
    return config["x"]


def none_at_all():
    return 0.0
'''
STUDY = """
name: bowl
objective: objectives.py:bowl
space:
  x: {float: [0, 1]}
  deep: {categorical: [true, false]}
  depth: {int: [1, 4], when: {deep: true}}
forbid: ["depth == 4 and x > 0.9"]
method: {bohb: {min: 1, max: 9, unit: epochs}}
budget: {trials: 40}
"""


@pytest.fixture
def study(folder):
    """A study's file in the current folder, and its objective beside it."""
    (folder / "objectives.py").write_text(OBJECTIVE)
    (folder / "study.yaml").write_text(STUDY)
    return folder


def test_run_status_best_export_and_go_on(cli, study):
    result = cli("search", "run", "study.yaml", "--budget", "20")
    assert result.exit_code == 0, result.output
    assert "20 runs, ended by trials=20" in result.stdout and "x: 0." in result.stdout
    assert (study / "bowl.db").exists() and "the best so far" in result.stderr
    result = cli("search", "run", "study.yaml", "--json")
    document = json.loads(result.stdout)
    assert document["runs"] == 40 and abs(document["best"]["config"]["x"] - 0.3) < 0.2
    assert "goes on after 20 runs" in result.stderr
    told = json.loads(cli("search", "best", "study.yaml", "--json").stdout)
    assert told == document["best"]
    pasted = yaml.safe_load(cli("search", "best", "study.yaml", "--format", "yaml").stdout)
    assert pasted == document["best"]["config"]
    rows = json.loads(cli("search", "status", "study.yaml", "--json").stdout)["budgets"]
    assert sum(row["finished"] + row["failed"] for row in rows) == 40
    assert [row["budget"] for row in rows] == [1, 3, 9] and rows[-1]["best"] == document["best"]["loss"]
    assert "budget  finished" in cli("search", "status", "study.yaml").stdout
    assert cli("search", "export", "study.yaml", "--out", "runs.csv").exit_code == 0
    written = list(csv.DictReader((study / "runs.csv").open()))
    assert len(written) == 40 and {"x", "deep", "depth", "loss", "budget", "size"} <= set(written[0])
    assert all((row["depth"] == "") == (row["deep"] == "False") for row in written)
    assert len(json.loads(cli("search", "export", "study.yaml", "--format", "json").stdout)) == 40


def test_resume_needs_the_storage_and_the_objective_alone(cli, study):
    assert cli("search", "run", "study.yaml", "--budget", "10").exit_code == 0
    how = (
        "search",
        "resume",
        "sqlite:///bowl.db",
        "objectives.py:bowl",
        "--name",
        "bowl",
        "--budget",
        "15",
        "--json",
    )
    assert json.loads(cli(*how).stdout)["runs"] == 15
    result = cli("search", "resume", "sqlite:///bowl.db", "objectives.py:bowl", "--budget", "15")
    assert result.exit_code == 2 and "no study 'study' in sqlite:///bowl.db" in result.output


def test_check_starts_nothing(cli, study):
    result = cli("search", "check", "study.yaml")
    assert result.exit_code == 0, result.output
    assert "3 parameters, infinitely many configurations" in result.stdout and "budgets 1, 3, 9" in result.stdout
    assert not (study / "bowl.db").exists()
    document = json.loads(cli("search", "check", "study.yaml", "--json").stdout)
    assert document["configurations"] is None and document["method"]["bohb"]["unit"] == "epochs"


def test_check_shows_the_plan_and_recommends_a_method(cli, study):
    lines = cli("search", "check", "study.yaml").stdout.splitlines()
    assert lines[2:5] == ["  bracket 9 at 1, 3 at 3, 1 at 9", "  bracket 3 at 3, 1 at 9", "  bracket 3 at 9"]
    # 9-3-1, 3-1 and 3 are 20 runs, and so again: 18 at 1, 12 at 3 and 10 at 9, of which 2 + 4 + 10 full ones
    assert lines[5] == "about 18 at 1, 12 at 3, 10 at 9, or 16.0 full runs, with 1 worker"
    assert lines[6].startswith("recommended bohb, as it says: runs on budget 1 cost 0.11 of one on 9")
    document = json.loads(cli("search", "check", "study.yaml", "--json").stdout)
    assert document["expected"] == {"1": 18, "3": 12, "9": 10} and document["recommended"]["method"] == "bohb"
    assert document["brackets"][1] == {"budgets": [3, 9], "sizes": [3, 1]}
    timed = STUDY.replace("trials: 40", "wall: 10min").replace("{bohb: {min: 1, max: 9, unit: epochs}}", "bayes")
    (study / "study.yaml").write_text(timed)
    assert "give --run-seconds" in cli("search", "check", "study.yaml").stdout
    told = cli("search", "check", "study.yaml", "--run-seconds", "2min").stdout
    assert "about 5 runs, with 1 worker" in told and "recommended random: 5 full runs are over before" in told
    result = cli("search", "check", "study.yaml", "--run-seconds", "2mins")
    assert result.exit_code == 2 and "--run-seconds='2mins': no unit 'mins'. Did you mean 'min'?" in result.output


def test_workers_find_an_objective_that_is_a_file(cli, study):
    result = cli("search", "run", "study.yaml", "--workers", "2", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["runs"] == 40


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("budget: {", "budgt: {", "study.yaml:10: no key 'budgt'. Did you mean 'budget'?"),
        ("objective: objectives.py:bowl", "", "study.yaml: it needs objective"),
        ("x: {float: [0, 1]}", "x: {float: [1, 0]}", "study.yaml:5: space: x: Float: low=1 must be below high=0"),
        ("x: {float: [0, 1]}", "x: {flaot: [0, 1]}", "study.yaml:5: space: x: flaot names no kind"),
        ("{deep: true}", "{dep: true}", "there is no parameter 'dep'. Did you mean 'deep'?"),
        ("trials: 40", "trails: 40", "study.yaml:10: budget: no limit 'trails'. Did you mean 'trials'?"),
        ("min: 1", "mini: 1", "no setting 'mini'. Did you mean 'min'?"),
        ("bohb:", "bhob:", "no method 'bhob' in samplers. Did you mean 'bohb'?"),
        ("objectives.py:bowl", "objectives.py:bwl", "has no 'bwl'. Did you mean 'bowl'?"),
        ("objectives.py:bowl", "objective.py:bowl", "Did you mean 'objectives.py'?"),
        ("objectives.py:bowl", "objectives.py:none_at_all", "must take (config), (config, budget)"),
        ("name: bowl", "name: [", "is no YAML file"),
        ("name: bowl", "workers: 0", "study.yaml:2: workers: 0 must be a whole number of at least 1"),
        ("method: ", "name: y\nmethod: ", "name is there twice, in line 2 and 9"),
        ("x: {float: [0, 1]}", "x: [0, 1]", "study.yaml:5: space: x: [0, 1] is a list; say of what"),
        ("budget: ", "timeout: soon\nbudget: ", "timeout='soon' must be a time"),
        ("budget: ", "memory: 4GB\nbudget: ", "memory='4GB' must be a whole number"),
        ("budget: ", "storage: study.db\nbudget: ", "storage: 'study.db' must be a URL"),
    ],
)
def test_mistakes_are_told_with_their_line(cli, study, old, new, said):
    text = STUDY.replace(old, new)
    assert text != STUDY
    (study / "study.yaml").write_text(text)
    result = cli("search", "check", "study.yaml")
    assert result.exit_code == 2 and said in " ".join(result.output.split()), result.output


def test_what_is_not_there(cli, study):
    result = cli("search", "run", "stdy.yaml")
    assert result.exit_code == 2 and "Did you mean 'study.yaml'?" in result.output
    result = cli("search", "rnu", "study.yaml")
    assert result.exit_code == 2 and "no command 'search rnu'. Did you mean 'run'?" in result.output
    result = cli("search", "status", "study.yaml")
    assert result.exit_code == 2 and "there is no study 'bowl' yet" in result.output
    assert not (study / "bowl.db").exists(), "looking makes no file"
    other = STUDY.replace("objectives.py:bowl", "objectives.py:alone").replace("[0, 1]", "[2, 3]")
    (study / "study.yaml").write_text(other)
    assert cli("search", "run", "study.yaml", "--budget", "3").exit_code == 0
    (study / "study.yaml").write_text(STUDY)
    result = cli("search", "status", "study.yaml")
    assert result.exit_code == 2 and "has another space" in result.output
    result = cli("search", "run", "study.yaml", "--budget", "3")
    assert result.exit_code == 0, result.output
    assert "0 of 3 runs of 'bowl' lie in the new one" in result.stderr


def test_replay_says_whether_every_suggestion_comes_out_again(cli, study):
    assert cli("search", "run", "study.yaml", "--budget", "30").exit_code == 0
    result = cli("search", "replay", "study.yaml")
    assert result.exit_code == 0 and "suggestions came out again, bit for bit" in result.stdout, result.output
    with closing(sqlite3.connect(study / "bowl.db")) as connection:
        connection.execute(
            "UPDATE trial_user_attributes SET value_json = ? WHERE key = 'config' AND trial_id = 3",
            (json.dumps({"x": 0.25, "deep": False}),),
        )
        connection.commit()
    result = cli("search", "replay", "study.yaml")
    assert result.exit_code == 4 and "stored    {'x': 0.25, 'deep': False}" in result.stdout, result.output
    result = cli("search", "replay", "study.yaml", "--json")
    document = json.loads(result.stdout)
    assert result.exit_code == 4 and not document["same"]
    assert document["differences"][0]["number"] == 2 and document["differences"][0]["stored"]["x"] == 0.25


def test_report_is_a_page_and_its_data(cli, study):
    assert cli("search", "run", "study.yaml").exit_code == 0
    result = cli("search", "report", "study.yaml")
    assert result.exit_code == 0 and result.stdout.strip().endswith("study.html"), result.output
    page = (study / "study.html").read_text()
    assert "Least loss" in page and ">depth<" in page
    document = json.loads(cli("search", "report", "study.yaml", "--json", "--out", "other.html").stdout)
    assert document["runs"] == 40 and document["report"] == "other.html" and (study / "other.html").exists()
    assert [rung["budget"] for rung in document["rungs"]] == [1, 3, 9]
    assert {each["name"] for each in document["parameters"]} == {"x", "deep", "depth"}


def test_status_tells_who_runs_the_study_and_the_time_left(cli, study):
    assert cli("search", "run", "study.yaml", "--budget", "30").exit_code == 0
    assert cli("search", "status", "study.yaml").stdout.rstrip().endswith("not being run")
    document = json.loads(cli("search", "status", "study.yaml", "--json").stdout)
    assert document["driver"] is None and document["seconds_left"] is None
    with closing(sqlite3.connect(study / "bowl.db")) as connection:
        connection.execute("UPDATE trials SET state = 'RUNNING', datetime_complete = NULL WHERE number = 29")
        connection.execute("DELETE FROM trial_user_attributes WHERE trial_id = 30 AND key = 'outcome'")
        connection.commit()
    _, store = opened(Path("study.yaml"))
    with store.driven():
        last = cli("search", "status", "study.yaml").stdout.rstrip().splitlines()[-1]
        document = json.loads(cli("search", "status", "study.yaml", "--json").stdout)
    assert re.fullmatch(rf"being run by process {os.getpid()} on .*, since .*, about .* left", last), last
    assert document["seconds_left"] > 0 and document["driver"]["pid"] == os.getpid()


def test_another_version_of_the_objective_is_told_and_refused_where_strict(cli, study):
    assert cli("search", "run", "study.yaml", "--budget", "5", "--strict").exit_code == 0
    (study / "objectives.py").write_text(OBJECTIVE + "# changed\n")
    result = cli("search", "run", "study.yaml", "--budget", "6", "--strict")
    assert result.exit_code == 2 and "strict: the objective's source is not what it was" in result.output
    how = ("search", "resume", "sqlite:///bowl.db", "objectives.py:bowl", "--name", "bowl", "--budget", "6")
    assert cli(*how, "--strict").exit_code == 2
    result = cli("search", "run", "study.yaml", "--budget", "6")
    assert result.exit_code == 0 and "earlier runs may not compare with new ones" in result.stderr
    assert cli(*how, "--strict", "--join").exit_code == 0, "nobody runs it, so that there is nothing to join"


RECIPE = """
task: net.py:make_task
model: {width: {int: [4, 8]}}
steps:
  - train: {epochs: 1, lr: {float: [1e-4, 1e-2], log: true}}
"""
NET = """
import torch
from paretune import Task


def make_task(width=4):
    x = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
    data = (x, (x.sum(1) > 0).long())
    model = lambda: torch.nn.Sequential(torch.nn.Linear(5, width), torch.nn.ReLU(), torch.nn.Linear(width, 2))
    return Task(model=model, train=data, val=data, test=data)
"""


def test_a_recipe_with_open_values_is_searched_and_its_best_is_run(cli, study):
    (study / "net.py").write_text(NET)
    (study / "recipe.yaml").write_text(RECIPE)
    (study / "study.yaml").write_text("name: net\nrecipe: recipe.yaml\nmethod: random\nbudget: 1\n")
    result = cli("search", "check", "study.yaml")
    assert result.exit_code == 0 and "net: 2 parameters" in result.stdout, result.output
    result = cli("search", "run", "study.yaml")
    assert result.exit_code == 0 and "net/best-00000" in result.stdout, result.output
    assert list((study / "net").glob("best-00000-*/report.html")) and (study / "net.db").exists()
    assert "model.width" in cli("search", "best", "study.yaml").stdout
    (study / "recipe.yaml").write_text(RECIPE.replace("epochs: 1", "epochs: 2"))
    result = cli("search", "run", "study.yaml")
    assert result.exit_code == 2 and "has another objective" in result.output


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        (
            "study.yaml",
            "recipe: recipe.yaml\nbudget: 3\nminimize: latncy\n",
            "study.yaml:3: .*Did you mean 'latency'",
        ),
        (
            "study.yaml",
            "recipe: recipe.yaml\nbudget: 3\nspace: {}\n",
            "study.yaml:3: space: a `recipe:` says it itself",
        ),
        ("study.yaml", "recipe: recipe.yaml\nbudget: 3\nrepeats: 2\n", "study.yaml:3: repeats: .*leave it out"),
        ("study.yaml", "recipe: recipy.yaml\nbudget: 3\n", "no recipe .*Did you mean 'recipe.yaml'"),
        ("study.yaml", "recipe: recipe.yaml\nbudget: 3\nmethod: bohb\n", "nothing in the recipe says `budget`"),
        ("recipe.yaml", RECIPE.replace("make_task", "make_tusk"), "Did you mean 'make_task'"),
        (
            "recipe.yaml",
            RECIPE.replace("width", "widht"),
            "unexpected keyword argument 'widht'.*Did you mean 'width'",
        ),
    ],
)
def test_mistakes_about_a_recipe_are_found_before_anything_runs(cli, study, file, text, said):
    (study / "net.py").write_text(NET)
    (study / "recipe.yaml").write_text(RECIPE)
    (study / "study.yaml").write_text("recipe: recipe.yaml\nmethod: random\nbudget: 1\n")
    (study / file).write_text(text)
    for command in ("check", "run"):
        result = cli("search", command, "study.yaml")
        assert result.exit_code == 2, result.output
        assert re.search(said, " ".join(result.stderr.split())), result.stderr


GOALS = 'objectives: {loss: min, size: max}\nconstraints: {size: "<= 24"}\n'


def test_the_front_of_several_objectives_is_a_table_and_a_drawing(cli, study):
    (study / "study.yaml").write_text(STUDY + GOALS)
    assert cli("search", "run", "study.yaml").exit_code == 0
    lines = cli("search", "best", "study.yaml").stdout.splitlines()
    assert re.fullmatch(r"front of \d runs, loss, size:", lines[0])
    assert lines[1].split()[:3] == ["run", "loss", "size"]
    document = json.loads(cli("search", "best", "study.yaml", "--json").stdout)
    losses = [run["loss"] for run in document["front"]]
    sizes = [run["values"]["size"] for run in document["front"]]
    assert losses == sorted(losses) and sizes == sorted(sizes) and max(sizes) <= 24
    assert cli("search", "report", "study.yaml").exit_code == 0
    page = (study / "study.html").read_text()
    assert "on the front of loss, size on budget 9" in page and "that hold size &lt;= 24" in page


def test_what_came_nearest_is_told_where_nothing_holds(cli, study):
    (study / "study.yaml").write_text(STUDY + 'constraints: {size: "<= 4"}\n')
    assert cli("search", "run", "study.yaml").exit_code == 3
    assert cli("search", "best", "study.yaml").exit_code == 3
    pasted = cli("search", "best", "study.yaml", "--format", "yaml").stdout
    assert all(line.startswith("# ") for line in pasted.splitlines())
    told = cli("search", "best", "study.yaml").stdout
    assert re.match(r"no run holds the constraints; nearest is run \d+ at budget 9: size 8 misses <= 4 by 4", told)
    assert json.loads(cli("search", "best", "study.yaml", "--json").stdout)["state"] == "infeasible"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('constraints: {size: "< 4"}', "study.yaml:11: constraints: size: '< 4' must be '<= number'"),
        ("objectives: {loss: least}", "study.yaml:11: objectives: loss='least' must be one of min, max"),
        ("objectives: [loss, loss]", "study.yaml:11: objectives: 'loss' is there twice"),
        ("objectives: [test_loss]", "study.yaml:11: objectives: 'test_loss' is kept for the end"),
        ("objektives: [loss]", "study.yaml:11: no key 'objektives'. Did you mean 'objectives'?"),
    ],
)
def test_mistakes_in_goals_are_told_with_their_line(cli, study, line, said):
    (study / "study.yaml").write_text(STUDY + line + "\n")
    result = cli("search", "check", "study.yaml")
    assert result.exit_code == 2 and said in " ".join(result.output.split()), result.output
