from __future__ import annotations

import numpy as np
import pytest

from paretune.errors import InputError
from paretune.export import strip
from paretune.quantize import layer_errors, static
from paretune.quantize._layer_errors import snr_db


def test_snr_by_hand():
    assert snr_db(np.array([3.0, 4.0]), np.array([3.0, 4.5])) == pytest.approx(20.0)  # 25 / 0.25
    assert snr_db(np.ones(3), np.ones(3)) == 200.0
    assert snr_db(np.zeros(3), np.ones(3)) == -200.0


def test_every_layer_of_the_float_graph_is_listed_by_its_name(exported, feeds_of):
    graph = exported("residual")
    int8 = static(graph, [feeds_of("residual", 16)])
    rows = layer_errors(graph, int8, feeds_of("residual", 4, seed=7))
    names = {node.name for node in graph.graph.node}
    assert [row["op"] for row in rows].count("Conv") == 4 and rows[-1]["op"] == "Gemm"
    assert {row["node"] for row in rows} <= names
    modules = [row["module"] for row in rows if row["module"]]
    assert modules == ["stem.0", "one.0", "two.0", "last.0", "head"]
    assert all(20 < row["snr_db"] < 80 for row in rows)


def test_the_layer_with_a_broken_weight_stands_out(exported, feeds_of):
    graph = exported("residual")
    int8 = static(graph, [feeds_of("residual", 16)])
    broken = next(t for t in int8.graph.initializer if t.name.startswith("last.0.weight") and t.data_type == 3)
    broken.raw_data = bytes(len(broken.raw_data))
    rows = layer_errors(graph, int8, feeds_of("residual", 4, seed=7))
    convs = [row for row in rows if row["op"] == "Conv"]
    assert convs[-1]["snr_db"] < 10 and min(row["snr_db"] for row in convs[:-1]) > 25


def test_the_errors_agree_with_running_both_graphs(exported, feeds_of, run):
    graph = exported("residual")
    int8 = static(graph, [feeds_of("residual", 16)])
    feeds = feeds_of("residual", 4, seed=7)
    expected = snr_db(run(graph, feeds)[0], run(int8, feeds, optimize=False)[0])
    assert layer_errors(graph, int8, feeds)[-1]["snr_db"] == pytest.approx(expected, abs=0.01)


def test_a_stripped_graph_has_no_names_to_go_by(exported, feeds_of):
    graph = exported("residual")
    int8 = static(graph, [feeds_of("residual", 16)])
    with pytest.raises(InputError, match="before its names are stripped"):
        layer_errors(graph, strip(int8), feeds_of("residual", 2))
