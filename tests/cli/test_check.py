"""`paretune check`: the table of layers and steps, and what it costs to be wrong."""

import json

import pytest

RECIPE = """
task: quarters.py:make_task
steps:
  - train: {epochs: 2}
  - prune.channels: {ratio: 0.5, multiple: 8}
  - quantize.static: {calibration: 32}
"""


@pytest.fixture
def recipe(folder):
    (folder / "cut.yaml").write_text(RECIPE)
    return "cut.yaml"


def test_the_table_shows_layers_before_and_after_and_why_not(cli, recipe, folder):
    result = cli("check", recipe)
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["0", "Conv2d", "1x16x8x8", "1x8x8x8", "16", "channels"] in lines
    assert "6      Linear       1x4       1x4      no: it is the model's output" in result.stdout
    assert "step 2, prune.channels: 14,336 MACs (0.30x)" in result.stdout
    assert not (folder / "runs").exists()


def test_json_is_one_document_with_the_same_numbers(cli, recipe):
    document = json.loads(cli("check", recipe, "--json").stdout)
    assert [step["step"] for step in document["steps"]] == ["train", "prune.channels", "quantize.static"]
    assert document["steps"][1]["after"]["macs"] == 14_336


def test_a_step_that_cannot_be_done_exits_with_3(cli, recipe):
    result = cli("check", recipe, "--set", "prune.channels.ratio=null", "--set", "prune.channels.macs=0.0001")
    assert result.exit_code == 3, result.output
    assert "cannot be done: prune.channels: macs=0.0001" in result.stdout


def test_a_bare_number_above_1_is_an_amount(cli, recipe):
    sets = ("--set", "prune.channels.ratio=null", "--set", "prune.channels.macs=20000")
    document = json.loads(cli("check", recipe, "--json", *sets).stdout)
    assert 14_336 <= document["steps"][1]["after"]["macs"] <= 20_000


def test_mistakes_are_told_together_before_the_task_is_imported(cli, folder):
    (folder / "bad.yaml").write_text("task: nowhere.py:make\nsteps:\n- prune.chanels\n- train: {epoch: 1}\n")
    result = cli("check", "bad.yaml")
    assert result.exit_code == 2
    assert "Did you mean 'prune.channels'?" in result.stderr
    assert "Did you mean 'epochs'?" in result.stderr
    assert "nowhere" not in result.stderr
