"Gates that guard money and releases judge a value: each is executed as it stands in its template, once with a value that passes and once with one that does not."
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import ROOT
from house import House

from llmops_nb.ground.core import BadInput, NotAllowed
from llmops_nb.models.plan import Plan


def cell_with(template: str, words: str) -> str:
    "The code of the template's cell that contains the words."
    cells = json.loads((ROOT / "templates" / f"{template}.ipynb").read_text())["cells"]
    return next("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code" and words in "".join(cell["source"]))


class Judge:
    "As much of a stage as the cells need; remembers how each check came out."

    def __init__(self, workspace: object = None, folders: dict[str, Path] | None = None, inputs: dict[str, str] | None = None):
        self.workspace, self.folders, self.inputs, self.checks = workspace or SimpleNamespace(root="", run=""), folders or {}, inputs or {}, {}

    def input(self, name: str, optional: bool = False) -> Path | None: return self.folders.get(name)

    def table(self, name: str, frame: object) -> None: pass

    def check(self, name: str, passed: bool | None, detail: str = "", blocking: bool = True) -> bool:
        self.checks[name] = (passed is True, blocking)
        return bool(passed)


@pytest.mark.parametrize("budget, fits", [(0.0, True), (2.0, True), (1.0, True), (0.99, False)])
def test_a_plan_above_the_budget_fails_its_gate(budget: float, fits: bool):
    import llmops_nb.models.finetune as finetune
    import llmops_nb.models.plan as plan
    import pandas as pd

    stage, planned = Judge(), {"lora": Plan("lora", 1, 10, 100, 5, 3600.0, 10**6, 1.0, {"weights": 10**6})}
    names = vars(finetune) | vars(plan) | {"stage": stage, "pd": pd, "budget": budget, "base_model": "builtin:tiny", "method": "lora", "dataset": None, "settings": None, "adapter": None, "plan_methods": lambda *_: planned}
    source = cell_with("06_finetune", "the plan fits the budget")
    if fits:
        exec(source, names)
    else:
        with pytest.raises(BadInput, match="planned to cost 1, and the budget is 0.99"):
            exec(source, names)
    assert stage.checks["the plan fits the budget"] == (fits, True)


@pytest.mark.parametrize("signers, approved", [(("alice", "bob"), True), (("alice",), False), ((), False)])
def test_a_release_without_its_signatures_fails_its_gate(house: House, signers: tuple[str, ...], approved: bool):
    import pandas as pd

    from llmops_nb.govern.approval import require_approved, verify_release
    from llmops_nb.govern.release import find_release
    from llmops_nb.ground.core import read_json

    house.sign(*signers)
    folder = house.office.store.get(house.release.digest, house.root / "out")
    stage = Judge(folders={"release": folder}, inputs={"release": house.release.digest})
    names = {"stage": stage, "pd": pd, "read_json": read_json, "open_office": lambda workspace: house.office, "find_release": find_release, "verify_release": verify_release, "require_approved": require_approved}
    source = cell_with("10_deploy", "the release is approved")
    if approved:
        exec(source, names)
    else:
        with pytest.raises(NotAllowed):
            exec(source, names)
    assert stage.checks["the release is approved"] == (approved, True)
