"Stage 06 as a whole with everything that it can do: settings are searched, the winner is made smaller, and what is kept is a candidate like any other."
import csv
from pathlib import Path

import pytest
from conftest import llmops

pytestmark = pytest.mark.slow
GIVEN = {"data": "../mail.csv", "text_column": "text", "label_column": "label", "method": "lora", "near_duplicates": "0", "finetune.epochs": "1", "finetune.trials": "2", "finetune.smaller": "int8, pruned 20"}


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    "A workspace in which stages 01, 02, 03 and 06 ran on two hundred short messages."
    from llmops_nb.data.support import generate_support

    folder = tmp_path_factory.mktemp("searched")
    rows = [row for row in generate_support(7, 600).records if "\n" not in row["text"] and row["language"] == "en" and row["label"]][:200]
    with open(folder / "mail.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["text", "label"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    assert llmops(folder, "init", "bot", home=folder / "home").returncode == 0
    words = [word for name, value in GIVEN.items() for word in ("-p", f"{name}={value}")]
    done = llmops(folder / "bot", "run", "objectives", "explore", "prepare", "finetune", *words, home=folder / "home", timeout=500)
    assert done.returncode in (0, 3), done.stdout + done.stderr  # 3: with so few records the winner need not beat the untouched base beyond doubt
    return folder / "bot"


def test_the_search_is_in_the_ledger(searched: Path):
    from llmops_nb.ground import ledger as books
    from llmops_nb.ground.settings import Workspace

    ledger = books.Ledger(Workspace(searched).address("ledger"))
    names = {row["name"] for row in ledger.rows(books.sql.select(books.metrics))}
    assert {"seconds_as_it_is", "seconds_int8", "accuracy_int8", "accuracy_pruned_20"} <= names
    assert len(ledger.rows(books.sql.select(books.mirrors))) >= 2, "each trial is a run of its own"


def test_what_was_tried_is_compared_message_by_message(searched: Path):
    import pandas

    from llmops_nb.ground.core import read_json

    table = read_json(searched / "runs" / "main" / "06_finetune" / "tables" / "smaller_models.json")
    rows = pandas.DataFrame(table["data"], columns=table["columns"]).set_index("kind")
    assert list(rows.index) == ["as it is", "int8", "pruned 20"] and rows.loc["as it is", "change"] == 0 and rows.loc["int8", "megabytes"] < rows.loc["as it is", "megabytes"]
    assert (rows["n"] > 0).all() and (rows["change low"] <= rows["change"]).all() and (rows["change"] <= rows["change high"]).all()
