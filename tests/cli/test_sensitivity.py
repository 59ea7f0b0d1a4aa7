"""`paretune sensitivity`: the table, the document, the page, and what it costs to be wrong."""

import json


def test_table_json_and_page(cli, folder):
    result = cli("sensitivity", "quarters.py:make_task", "--ratio", "0.5", "--samples", "32", "--html", "out.html")
    assert result.exit_code == 0, result.output
    assert "8 of 16" in result.stdout and "whole: accuracy" in result.stdout
    assert "Group by group" in (folder / "out.html").read_text()
    document = json.loads(
        cli("sensitivity", "quarters.py:make_task", "--ratio", "0.5", "--samples", "32", "--json").stdout
    )
    assert [group["width"] for group in document["groups"]] == [16, 16]
    assert all(len(group["points"]) == 1 for group in document["groups"])


def test_what_is_wrong_is_told(cli, folder):
    result = cli("sensitivity", "quarters.py:make_task", "--ratio", "2")
    assert result.exit_code == 2 and "must be fractions to remove" in result.output
    result = cli("sensitivity", "quarters.py:make_task", "--structures", "heads")
    assert result.exit_code == 3 and "has no heads" in result.output
