"""A storage that cannot be used: what is said, and that nothing stored is harmed."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys

import optuna
import pytest

from paretune.errors import InputError, RunError
from paretune.search import Float, minimize
from paretune.search._study import database, opening
from paretune.search._study.database import holders
from paretune.search._study.salvage import salvaged

SPACE = {"x": Float(0, 1), "y": Float(0, 1)}
HOLDS = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.readline()
"""


def bowl(config):
    return (config["x"] - 0.3) ** 2


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/study.db"


@pytest.fixture
def study(url, tmp_path):
    """A study of six runs, as a file without a log beside it."""
    minimize(bowl, SPACE, "random", budget=6, storage=url)
    folded(tmp_path / "study.db")
    return tmp_path / "study.db"


def folded(path):
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def rows(path):
    """Everything that is stored, table by table."""
    with sqlite3.connect(path) as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        found = {name: connection.execute(f"SELECT * FROM {name}").fetchall() for name in names}
    connection.close()
    return found


def go_on(url, budget=8, objective=bowl):
    return minimize(objective, SPACE, "random", budget=budget, storage=url)


def test_locked_by_another_process(url, study, monkeypatch):
    monkeypatch.setattr(opening, "TIMEOUT", 0.5)
    monkeypatch.setattr(database, "TIMEOUT", 0.5)
    before = rows(study)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(study)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "locked\n"
    with pytest.raises(InputError, match=rf"study.db is locked by process {holder.pid} \(python"):
        go_on(url)
    assert rows(study) == before
    holder.communicate("\n", timeout=10)
    assert holders(study) == []

    def locks(config):
        held.append(sqlite3.connect(study, isolation_level=None))
        held[0].execute("BEGIN IMMEDIATE")
        return 0.0

    held = []
    with pytest.raises(RunError, match=r"locked by .*What was stored before is kept"):
        go_on(url, objective=locks)
    held[0].close()
    result = go_on(url)
    assert [trial.error for trial in result.trials].count("") == 8 and rows(study)["trials"][:6] == before[
        "trials"
    ]


def test_a_lock_that_is_let_go_is_waited_for(url, study):
    code = HOLDS.replace("sys.stdin.readline()", "import time; time.sleep(2)")
    holder = subprocess.Popen([sys.executable, "-c", code, str(study)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "locked\n"
    assert len(go_on(url).trials) == 8
    holder.communicate(timeout=10)


def limited(monkeypatch, pragma):
    """Let every connection of a study begin with a pragma."""

    class Limited(opening._Relaxed):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.execute(pragma).close()

    monkeypatch.setattr(opening, "_Relaxed", Limited)


def test_a_full_disk_ends_the_study_and_keeps_what_is_finished(url, study, monkeypatch):
    def big(config):
        return {"loss": bowl(config)} | {f"value{i}": 0.1 for i in range(500)}

    with sqlite3.connect(study) as connection:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
    with monkeypatch.context() as patch:
        limited(patch, f"PRAGMA max_page_count={pages + 12}")
        with pytest.raises(RunError, match=r"study.db could not be written: the disk is full; free some space"):
            go_on(url, 100, big)
    folded(study)
    kept = [trial for trial in rows(study)["trials"] if trial[3] == "COMPLETE"]
    assert 6 < len(kept) < 100
    result = go_on(url, len(kept) + 3)
    finished = [trial for trial in result.trials if not trial.error]
    assert len(finished) == len(kept) + 3 and all(row in rows(study)["trials"] for row in kept)
    assert sum(len(trial.values) == 500 for trial in finished) == len(kept) - 6


def test_read_only(url, study, monkeypatch):
    before = rows(study)
    limited(monkeypatch, "PRAGMA query_only=1")
    with pytest.raises(InputError, match=r"study.db cannot be written to, it or its folder is read-only"):
        go_on(url)
    assert rows(study) == before


def test_a_folder_is_no_file(tmp_path):
    (tmp_path / "folder.db").mkdir()
    with pytest.raises(InputError, match=r"folder.db is a folder; name a file"):
        go_on(f"sqlite:///{tmp_path}/folder.db")


def test_what_cannot_be_opened(tmp_path):
    (tmp_path / "link.db").symlink_to(tmp_path / "nowhere" / "study.db")
    with pytest.raises(
        InputError, match=r"link.db cannot be opened; see that .* neither it nor its folder is read"
    ):
        go_on(f"sqlite:///{tmp_path}/link.db")


def test_a_newer_schema(url, study):
    with sqlite3.connect(study) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v9.9.9'")
    connection.close()
    before = rows(study)
    with pytest.raises(InputError, match=r"cannot be used, and was left as it is.*Please try updating optuna"):
        go_on(url)
    assert rows(study) == before


def test_another_database_s_driver_and_a_name_that_is_none():
    with pytest.raises(InputError, match="nosql://there cannot be used"):
        go_on("nosql://there")
    with pytest.raises(InputError, match="Failed to import DB access module"):
        go_on("mysql+mysqldb://root@nowhere/there")


def test_a_newer_paretune(url, study):
    with sqlite3.connect(study) as connection:
        connection.execute("UPDATE study_user_attributes SET value_json = '2' WHERE key = 'paretune'")
    connection.close()
    with pytest.raises(InputError, match=r"was made by a newer paretune \(schema 2\)"):
        go_on(url)


def damaged(study, how):
    """Return a file with a page of one of its tables, or its end, overwritten."""
    with sqlite3.connect(study) as connection:
        size = connection.execute("PRAGMA page_size").fetchone()[0]
        places = dict(connection.execute("SELECT name, rootpage FROM sqlite_master WHERE type = 'table'"))
    connection.close()
    content = bytearray(study.read_bytes())
    if how == "cut":
        del content[len(content) // 2 :]
    else:
        place = (places[how] - 1) * size
        content[place : place + size] = b"\xa5" * size
    study.write_bytes(content)
    return bytes(content)


@pytest.mark.parametrize("how", ["studies", "trial_params", "trials", "trial_user_attributes", "cut"])
def test_a_damaged_file_is_copied_and_its_runs_are_saved(url, study, how):
    before = {
        number: (json.loads(config), loss)
        for number, config, loss in sqlite3.connect(study).execute(
            "SELECT t.number, a.value_json, v.value FROM trials t JOIN trial_user_attributes a USING (trial_id) "
            "JOIN trial_values v USING (trial_id) WHERE a.key = 'config'"
        )
    }
    content = damaged(study, how)
    for _ in range(2):  # the second time is no different
        with pytest.raises(InputError, match=r"is damaged .* and is not used") as told:
            go_on(url)
        (copy,), (runs,) = (
            study.parent.glob("study.db.damaged-????????"),
            study.parent.glob("study.db.salvaged-*.jsonl"),
        )
        assert str(copy) in str(told.value) and str(runs) in str(told.value)
        assert study.read_bytes() == content == copy.read_bytes()
    saved = [json.loads(line) for line in runs.read_text().splitlines()]
    assert f"the {len(saved)} finished runs" in str(told.value)
    assert all((line["config"], line["loss"]) == before[line["number"]] for line in saved)
    assert how not in ("studies", "trial_params") or len(saved) == 6
    assert how not in ("trials", "trial_user_attributes") or not saved, "small tables are one page"


def test_the_runs_of_whole_pages_are_saved(url, study, tmp_path):
    minimize(bowl, SPACE, "random", budget=60, storage=url)
    folded(study)
    whole = list(salvaged(study))
    assert [line["number"] for line in whole] == list(range(60)) and {line["study"] for line in whole} == {"study"}
    content = bytearray(study.read_bytes())
    at = content.find(b'{"x": 0.')  # a leaf with configurations
    start = at // 4096 * 4096
    content[start : start + 4096] = b"\xa5" * 4096
    study.write_bytes(content)
    with pytest.raises(InputError, match="is damaged"):
        go_on(url)
    saved = [json.loads(line) for line in next(study.parent.glob("*.jsonl")).read_text().splitlines()]
    by_number = {line["number"]: line for line in whole}
    assert 20 < len(saved) < 60 and all(
        by_number[line["number"]] == by_number[line["number"]] | line for line in saved
    )
    assert all({"config", "outcome", "loss"} <= set(line) for line in saved)


@pytest.mark.parametrize(("old", "new", "left"), [
    (b'{"x": 0.', b'{"x": \xa5.', 5), (b'{"x": 0.', b'{"x"  0.', 5), (b'{"parameters', b'("parameters', 6),
])  # fmt: skip
def test_what_stands_on_whole_pages_may_be_damaged(url, study, old, new, left):
    study.write_bytes(study.read_bytes().replace(old, new, 1))
    with pytest.raises(InputError, match="is damaged"):
        go_on(url)
    assert len(next(study.parent.glob("*.jsonl")).read_text().splitlines()) == left


def test_a_study_that_was_killed_is_not_damaged(url, study, tmp_path):
    """Its log, not yet folded into the file, is read too."""
    connection = sqlite3.connect(study)
    connection.execute("PRAGMA wal_autocheckpoint=0")
    minimize(bowl, SPACE, "random", budget=9, storage=url)
    moved = tmp_path / "moved"
    moved.mkdir()
    for file in tmp_path.glob("study.db*"):
        shutil.copyfile(file, moved / file.name)
    connection.close()
    assert (moved / "study.db-wal").stat().st_size > 0
    assert len(go_on(f"sqlite:///{moved}/study.db", 9).trials) == 9
    assert optuna.load_study(study_name="study", storage=f"sqlite:///{moved}/study.db").best_value < 1
