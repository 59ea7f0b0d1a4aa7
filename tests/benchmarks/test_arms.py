"""Arms are kept and skipped; differences are paired over samples."""

from __future__ import annotations

import json

import numpy as np
import pytest


def test_a_finished_arm_is_read_and_one_of_other_settings_is_run(tmp_path):
    from _arms import Arms

    arms, calls = Arms(tmp_path), []

    def arm(folder):
        calls.append(folder.exists())
        return {"accuracy": len(calls)}

    assert arms.finish("a", {"epochs": 1, "seeds": (0, 1)}, arm)["accuracy"] == 1
    assert arms.finish("a", {"epochs": 1, "seeds": (0, 1)}, arm)["accuracy"] == 1
    assert arms.finish("a", {"epochs": 2, "seeds": (0, 1)}, arm)["accuracy"] == 2
    assert calls == [True, True]
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]  # the checkpoints are gone
    assert json.loads((tmp_path / "a.json").read_text())["settings"] == {"epochs": 2, "seeds": [0, 1]}


def test_an_arm_that_fails_leaves_its_checkpoints_and_no_result(tmp_path):
    from _arms import Arms

    def arm(folder):
        (folder / "epoch1").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Arms(tmp_path).finish("a", {}, arm)
    assert (tmp_path / "a.running" / "epoch1").exists()
    assert not (tmp_path / "a.json").exists()


def test_the_difference_is_paired_over_samples_and_averaged_over_seeds():
    from _arms import compared

    generator = np.random.default_rng(1)
    both = generator.random(5000) < 0.9
    ours = [both ^ (generator.random(5000) < 0.02) for _ in range(2)]
    theirs = [both ^ (generator.random(5000) < 0.02) for _ in range(2)]
    found = compared(ours, theirs)
    gap = (np.mean(ours, axis=0) - np.mean(theirs, axis=0)) * 100
    error = gap.std() / np.sqrt(len(gap))
    assert found["points"] == pytest.approx(gap.mean())
    assert found["low"] == pytest.approx(gap.mean() - 1.96 * error, abs=0.15 * error)
    assert found["high"] == pytest.approx(gap.mean() + 1.96 * error, abs=0.15 * error)
    assert found["ours"] == [pytest.approx(seed.mean() * 100) for seed in ours]


def test_the_same_answers_differ_by_nothing():
    from _arms import compared

    right = np.array([True, False, True])
    assert {key: compared([right], [right])[key] for key in ("points", "low", "high")} == {
        "points": 0.0,
        "low": 0.0,
        "high": 0.0,
    }


def test_packed_answers_come_back():
    from _arms import packed, unpacked

    right = np.random.default_rng(0).random(1003) < 0.5
    assert np.array_equal(unpacked(packed(right), 1003), right)


def test_an_environment_is_known_by_what_it_must_hold(monkeypatch, tmp_path):
    from _peers import environment, place

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = place("peer", ["torch-pruning==1.6.1"])
    assert folder.is_relative_to(tmp_path)
    assert folder == place("peer", ["torch-pruning==1.6.1"])
    assert folder != place("peer", ["torch-pruning==1.6.0"])
    folder.mkdir(parents=True)
    (folder / ".ready").touch()
    assert environment("peer", ["torch-pruning==1.6.1"]).is_relative_to(folder)  # nothing is made anew


def test_the_exponent_of_a_power_law_is_found():
    from group_cost import exponent

    rows = [{"operators": n, "analysis_s": 0.01 * n**1.3} for n in (300, 1000, 3000)]
    rows.append({"operators": 10, "analysis_s": 99.0})  # what is paid once does not count
    assert exponent(rows, "analysis_s") == pytest.approx(1.3, abs=1e-3)


def test_the_winner_of_the_scores_is_the_best_mean_among_those_that_went_on_and_see_every_network():
    from scores import ranked, result

    accuracies = {"l1": (80, 70), "taylor": (82, 71), "default": (80, 72), "obc": (90, 80), "bn_scale": (None, 90)}
    seeds = {"obc": [0]}  # better by chance, and left behind
    rows = [
        {"score": score, "scope": "global", "network": network, "seed": seed, "code": "x", "macs": 0.5}
        | (
            {"refused": "no batch norm"}
            if value is None
            else {"before": {"val": 0, "test": 0}, "after": {"val": value, "test": value + seed}}
        )
        for score, values in accuracies.items()
        for network, value in zip(("mlp", "cnn"), values, strict=True)
        for seed in seeds.get(score, [0, 1])
    ]
    assert [way[0] for way in ranked(rows, ["mlp", "cnn"])] == ["obc", "taylor", "default", "l1"]
    found = result(rows, {"mlp": {"test": 90}, "cnn": {"test": 90}}, [0, 1])
    assert found.detail["winner"] == ["taylor", "global"]
    assert found.detail["winner_without_data"] == ("l1", "global")
    assert found.detail["refused"] == {"bn_scale: no batch norm": 2}
    assert found.value == pytest.approx(0.5)
    assert not found.met  # taylor is not what the step does by itself
    assert [(row["score"], row["val"], row["seeds"]) for row in found.detail["rows"]] == [
        ("taylor", 76.5, 2), ("default", 76, 2), ("l1", 75, 2), ("obc", 85, 1),
    ]  # fmt: skip
