"""`paretune verify` and `paretune report`, on the folder of a finished run."""

import json


def test_an_untouched_folder_verifies(finished, cli):
    result = cli("verify", "runs/recipe", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["ok"] is True
    assert {artifact["artifact"].rpartition("/")[2] for artifact in document["artifacts"]} == {
        "baseline.onnx",
        "quantized.onnx",
    }


def test_a_file_that_was_changed_exits_with_4(finished, cli):
    file = finished / "runs/recipe/artifacts/quantized.onnx"
    file.write_bytes(file.read_bytes() + b"\0")
    result = cli("verify", "runs/recipe", "--task", "quarters.py:make_task")
    assert result.exit_code == 4, result.output
    assert "FAILED  quantized.onnx" in result.stdout
    assert "was changed" in result.stdout
    assert "1 of 2 do not hold" in result.stdout


def test_a_folder_without_certificates_is_bad_input(folder, cli):
    result = cli("verify", ".")
    assert result.exit_code == 2
    assert "holds no certificate" in result.stderr


def test_the_report_is_written_where_asked(finished, cli):
    result = cli("report", "runs/recipe", "--out", "elsewhere.html", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["report"] == "elsewhere.html"
    assert (finished / "elsewhere.html").stat().st_size == document["bytes"]


def test_a_report_of_nothing_is_bad_input(folder, cli):
    result = cli("report", "runs/none")
    assert result.exit_code == 2
    assert "runs/none" in result.stderr
