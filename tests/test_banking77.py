"The whole lifecycle on real questions: Banking77, with out-of-scope traffic from CLINC150 and arrival times from the Azure trace."
import json
from pathlib import Path

import pytest
from conftest import llmops


@pytest.mark.slow
def test_banking77_end_to_end(workspace: Path, home: Path, data_folder: Path):
    given = {"policy": "demo", "data": data_folder / "banking77/train.csv", "text_column": "text", "label_column": "category", "test_rows": data_folder / "banking77/dev_rows.txt",
             "traffic": data_folder / "clinc150/data_full_train_val.json", "arrivals": data_folder / "azure_llm_trace/conv_part1.csv"}
    words = [word for name, value in given.items() for word in ("-p", f"{name}={value}")]
    done = llmops(workspace, "run", *words, home=home, timeout=2400)
    assert done.returncode == 0, done.stdout + done.stderr
    runs = workspace / "runs/main"
    assert len(list(runs.glob("*/receipt.json"))) == 13
    numbers = {stage: {m["name"]: m for m in json.loads((runs / stage / "metrics.json").read_text())} for stage in ("05_select", "06_finetune", "07_evaluate")}
    accuracy = numbers["07_evaluate"]["accuracy"]
    assert accuracy["value"] >= 0.80 and accuracy["n"] == 760 and accuracy["low"] < accuracy["value"] < accuracy["high"]
    for name in ("majority", "untouched base", "best prompt", "nearest neighbours"):
        baseline = numbers["05_select"][f"accuracy of {name}"]
        assert baseline["n"] == 760 and baseline["low"] is not None
    assert {"valid_accuracy_lora", "valid_accuracy_full"} <= set(numbers["06_finetune"])
    for stage in runs.glob("*/metrics.json"):
        peak = next(m for m in json.loads(stage.read_text()) if m["name"] == "peak memory")
        assert peak["value"] < 4000, f"{stage.parent.name} took {peak['value']} MB"
    again = llmops(workspace, "run", *words, home=home)
    assert again.returncode == 0 and again.stderr.count("nothing changed") == 13, again.stderr
