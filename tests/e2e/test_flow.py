"""The whole flow in Python, on the bundled digits: what six lines bring."""

import json
from pathlib import Path

import pytest
import torch

import paretune
from paretune.artifact import Certificate
from paretune.checkpoint import State
from paretune.distill import Distill
from paretune.errors import InputError
from paretune.flow import load
from paretune.prune import Channels, Learned
from paretune.quantize import Static
from paretune.recipe import Constraints, Recipe
from paretune.task import Task
from paretune.train import Train

FIXED = {"precision": "float32", "layout": "contiguous"}
RECIPE = Recipe(
    steps=(
        Train(epochs=6, lr=3e-3, **FIXED),
        Channels(ratio=0.5),
        Distill(epochs=8, lr=3e-3, **FIXED),
        Static(calibration=64),
    ),
    constraints=Constraints(max_drop=5, max_size="0.5x"),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, digits) -> paretune.Result:
    return paretune.run(RECIPE, _task(digits), out=tmp_path_factory.mktemp("run") / "a", cache=False)


def _task(digits) -> Task:
    from paretune.zoo import digits_net

    return Task(name="digits", model=lambda: digits_net(width=16), **digits)


def test_every_step_is_a_candidate_with_what_it_brought(run: paretune.Result):
    rows = run.summary["candidates"]
    assert [row["name"] for row in rows] == ["baseline", "pruned", "distilled", "quantized"]
    base, pruned, distilled, quantized = rows
    assert base["latency"]["verdict"] is None
    assert base["latency"]["ratio"] == 1
    assert base["metric"]["value"] > 0.9
    assert pruned["params"] < 0.6 * base["params"]
    assert pruned["macs"] < 0.6 * base["macs"]
    assert distilled["params"] == pruned["params"]
    assert distilled["metric"]["value"] > pruned["metric"]["value"]
    assert quantized["bytes"] < 0.5 * distilled["bytes"]
    assert quantized["macs"] == distilled["macs"]
    for row in rows:
        assert (run.folder / row["artifact"]).stat().st_size == row["bytes"]
        assert row["metric"]["low"] <= row["metric"]["value"] <= row["metric"]["high"]
        assert row["train_seconds"] > 0
        assert row["load_ms"] > 0
        assert Certificate.load(run.folder / row["certificate"]).ok


def test_the_folder_holds_everything(run: paretune.Result):
    assert json.loads((run.folder / "summary.json").read_text()) == run.summary
    assert (run.folder / "report.html").stat().st_size < 1_000_000
    assert (run.folder / "recipe.yaml").is_file()
    assert len(list((run.folder / "checkpoints").glob("*.safetensors"))) == 4
    assert not list((run.folder / "checkpoints").glob("*/")), "epochs are dropped once their step is done"


def test_the_best_is_confirmed_on_test_data_and_can_be_saved_and_loaded(
    run: paretune.Result, digits, tmp_path: Path
):
    best = run.best
    assert best is not None
    assert best.row["test"]["metric"]["n"] == len(digits["test"][1])
    assert Certificate.load(run.folder / best.row["certificate"]).metric["split"] == "test"
    onnx = best.save(tmp_path / "out")
    assert onnx.stat().st_size == best.row["bytes"]
    model = load(tmp_path / "out", _task(digits))
    assert sum(p.numel() for p in model.parameters()) == best.row["params"]
    x = torch.from_numpy(digits["test"][0])
    accuracy = (model.eval()(x).argmax(1).numpy() == digits["test"][1]).mean()
    assert abs(accuracy - best.row["test"]["metric"]["value"]) < 0.03  # INT8 may flip a few


def test_a_resumed_finished_run_measures_nothing_again(run: paretune.Result, digits):
    kinds: list[str] = []
    again = paretune.run(
        RECIPE, _task(digits), out=run.folder, resume=True, cache=False, emit=lambda k, f: kinds.append(k)
    )
    assert "epoch" not in kinds
    assert "measuring" not in kinds
    assert again.summary == run.summary


def test_a_recipe_that_begins_alike_shares_the_work(run: paretune.Result, digits, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "cache"))
    short = Recipe(steps=(Train(epochs=2, **FIXED), Channels(ratio=0.25)))
    longer = Recipe(steps=(Train(epochs=2, **FIXED), Channels(ratio=0.5)))
    seen: list[str] = []
    paretune.run(short, _task(digits), out=tmp_path / "a")
    paretune.run(longer, _task(digits), out=tmp_path / "b", emit=lambda kind, fields: seen.append(kind))
    assert "epoch" not in seen
    seen.clear()
    paretune.run(
        longer, _task(digits), out=tmp_path / "c", cache=False, emit=lambda kind, fields: seen.append(kind)
    )
    assert "epoch" in seen


def test_what_cannot_be_met_has_no_best_and_says_what_was_reached(digits, tmp_path: Path):
    recipe = Recipe(
        steps=(Train(epochs=1, **FIXED), Channels(ratio=0.1)), constraints=Constraints(max_size="0.01x")
    )
    result = paretune.run(recipe, _task(digits), out=tmp_path / "a")
    assert result.best is None
    assert result.summary["best"] is None
    assert "the best that was reached is 'pruned'" in result.summary["infeasible"]


def test_optimize_walks_its_ladder_until_the_constraints_hold(trained_task: Task, tmp_path: Path):
    task = trained_task
    result = paretune.optimize(task, max_drop=5, max_size="0.28x", budget="20s", out=tmp_path / "a", cache=False)
    assert result.best is not None
    assert result.best.row["bytes"] <= 0.28 * result.summary["candidates"][0]["bytes"]
    assert [c.name for c in result.candidates][:2] == ["baseline", "int8"]
    assert result.report(tmp_path / "report.html").stat().st_size > 1000
    with pytest.raises(InputError, match="holds a run already"):
        paretune.optimize(task, max_drop=5, max_size="0.28x", budget="20s", out=tmp_path / "a")
    again = paretune.optimize(
        task, max_drop=5, max_size="0.28x", budget="20s", out=tmp_path / "a", resume=True, cache=False
    )
    assert again.summary["best"] == result.summary["best"]


def test_optimize_ends_with_int8_where_no_channel_can_go(digits, tmp_path: Path):
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    said: list[str] = []
    result = paretune.optimize(
        Task(name="linear", model=net, **digits),
        max_drop=50,
        budget="20s",
        out=tmp_path / "a",
        cache=False,
        emit=lambda kind, fields: said.append(fields["text"]) if kind == "warning" else None,
    )
    assert [c.name for c in result.candidates] == ["baseline", "int8"]
    assert any("no channels can be removed" in text for text in said)


class Written(torch.nn.Module):
    """A number in the code: a model that is pruned before it is delivered as its graph."""

    def forward(self, x):
        return x.view(-1, 64)


def test_optimize_trains_a_regression_with_its_own_loss_and_its_code_need_not_follow(tmp_path: Path):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(600, 8, generator=generator)
    y = torch.tanh(x[:, 0]) + 0.5 * x[:, 1]
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.ReLU(), Written(), torch.nn.Linear(64, 1))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(net(x[:400])[:, 0], y[:400]).backward()
        optimizer.step()
    parts = {"train": (x[:400], y[:400]), "val": (x[400:500], y[400:500]), "test": (x[500:], y[500:])}
    task = Task(name="regression", model=net, loss="mse", metric="rmse", **parts)
    result = paretune.optimize(task, max_drop=200, budget="10s", out=tmp_path / "a", cache=False)
    assert result.best is not None
    steps = [next(iter(step)) for step in result.candidates[-1].row["recipe"]["steps"]]
    assert steps == ["prune.channels", "train", "quantize.static"]
    assert result.best.row["decision"]["unit"] == "percent"
    trained = [State.load(path) for path in (tmp_path / "a" / "checkpoints").glob("*-train-*.safetensors")]
    assert {cuts.form for state in trained for cuts in state.cuts} == {"graph"}


def test_steps_done_again_keep_names_of_their_own(trained_task: Task, tmp_path: Path):
    recipe = Recipe(
        steps=(
            Channels(ratio=0.2), Train(epochs=1, **FIXED), Channels(ratio=0.2), Train(epochs=1, **FIXED),
        )
    )  # fmt: skip
    result = paretune.run(recipe, trained_task, out=tmp_path / "a", cache=False)
    names = [candidate.name for candidate in result.candidates]
    assert names == ["baseline", "pruned", "trained", "pruned-2", "trained-2"]
    assert len({candidate.artifact for candidate in result.candidates}) == 5
    assert result.candidates[3].row["params"] < result.candidates[1].row["params"]


def test_the_report_draws_beta_in_the_run_that_learned_it_and_in_one_that_finds_it_stored(
    trained_task: Task, tmp_path: Path, monkeypatch
):
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "cache"))
    learned = Learned(macs=0.6, epochs=1, rate=0.5, recursion="layer", lr=1e-3, **FIXED)
    seen: list[str] = []
    for name, more in (("a", ()), ("b", (Static(calibration=32),))):
        seen.clear()
        recipe = Recipe(steps=(learned, *more))
        result = paretune.run(
            recipe, trained_task, out=tmp_path / name, emit=lambda kind, fields: seen.append(kind)
        )
        page = (result.folder / "report.html").read_text()
        assert page.count("prune.learned, beta, median") == 1 and "beta, lower quartile" in page
    assert "epoch" not in seen  # the second found the step stored
