import gzip

import numpy as np
import pytest

from paretune.errors import DataError, InputError
from paretune.zoo import csv

TEXT = "age,job,note\n31,cook,likes soup\n?,baker,\n40,cook,has a cat\n22,?,sings\n"


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "people.csv"
    path.write_text(TEXT)
    return path


def test_columns_kinds_and_codes_by_hand(table):
    people = csv(table)
    assert [people.kind(name) for name in people.columns] == ["number", "category", "text"]
    np.testing.assert_array_equal(people.columns["age"], np.float32([31, np.nan, 40, 22]))
    assert people.categories["job"] == ("baker", "cook")
    assert people.columns["job"].tolist() == [2, 1, 2, 0]  # 0 is missing
    assert people.columns["note"][2] == "has a cat"
    assert len(people) == 4


def test_the_test_table_is_coded_like_the_training_table(table, tmp_path):
    other = tmp_path / "test.csv"
    other.write_text("age,job,note\n50,pilot,x\n51,cook,x\n")
    coded = csv(other, like=csv(table))
    assert coded.columns["job"].tolist() == [0, 2]  # pilot was never seen in training
    assert coded.kind("note") == "text"
    other.write_text("age,work,note\n50,pilot,x\n")
    with pytest.raises(DataError, match="has columns age, work, note; the table it must match has age, job, note"):
        csv(other, like=csv(table))


def test_matrix_puts_numbers_first_come_and_categories_as_one_hot(table):
    matrix = csv(table).matrix(["job", "age"])
    assert matrix.dtype == np.float32
    assert matrix[:, :3].tolist() == [[0, 0, 1], [0, 1, 0], [0, 0, 1], [1, 0, 0]]
    assert matrix[2, 3] == 40
    with pytest.raises(InputError, match="'note' is text"):
        csv(table).matrix(["note"])
    with pytest.raises(InputError, match=r"no column 'aeg'\. Did you mean 'age'\?"):
        csv(table).matrix(["aeg"])


def test_kinds_overrule_the_guess(table):
    assert csv(table, kinds={"age": "category"}).categories["age"] == ("22", "31", "40")
    with pytest.raises(InputError, match=r"no column 'jbo'\. Did you mean 'job'"):
        csv(table, kinds={"jbo": "text"})
    with pytest.raises(InputError, match="age='int' must be one of number, category, text"):
        csv(table, kinds={"age": "int"})
    with pytest.raises(DataError, match="row 1, column 'job' is 'cook', not a number"):
        csv(table, kinds={"job": "number"})


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "no row beneath a header"),
        (b"a,b\n", "no row beneath a header"),
        (b"a,b\n1,2\n3\n", "row 2 has 1 fields, the header 2"),
        (b"a,a\n1,2\n", "names a column twice"),
        (b"a,b\n\xff\xfe,2\n", "utf-8"),
        (b'a,b\n"1,2\n', "unexpected end of data"),
        (gzip.compress(TEXT.encode(), mtime=0)[:-5], "does not decompress"),
    ],
)
def test_a_damaged_file_is_named_with_what_is_wrong(tmp_path, content, problem):
    path = tmp_path / "people.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=problem) as caught:
        csv(path)
    assert str(path) in str(caught.value)


def test_real_adult(shared):
    folder = shared / "data" / "adult"
    train = csv(folder / "train.csv.gz")
    test = csv(folder / "test.csv.gz", like=train)
    assert (len(train), len(test)) == (32_561, 16_281)
    numbers = [name for name in train.columns if train.kind(name) == "number"]
    assert numbers == ["age", "fnlwgt", "education_num", "capital_gain", "capital_loss", "hours_per_week"]
    assert train.categories["income"] == ("<=50K", ">50K")
    assert int((train.columns["income"] == 2).sum()) == 7_841
    assert int((test.columns["income"] == 2).sum()) == 3_846


def test_real_ag_news(shared):
    news = csv(shared / "data" / "ag_news" / "test.csv.gz")
    assert news.kind("text") == "text"
    assert np.bincount(news.columns["label"].astype(int)).tolist() == [1900] * 4
