"F8: the clock is wrong by hours, days and years, or runs backwards during a run. What is done stays done, order comes from numbers and not from times, and a jump backwards is written down."
import os
from pathlib import Path

import pytest
from conftest import llmops
from harness import chain, check_nothing_false, environment, told

pytestmark = pytest.mark.slow

HOUR, DAY, YEAR = 3600, 86400, 365.25 * 86400
STEMS = ["90_one", "91_two", "92_three"]
CLOCK = str(Path(__file__).with_name("clock"))
SHIFTS = {"1 h ahead": (HOUR, 0), "1 h behind": (-HOUR, 0), "1 d ahead": (DAY, 0), "1 d behind": (-DAY, 0), "10 y ahead": (10 * YEAR, 0), "10 y behind": (-10 * YEAR, 0),
          "jumps 1 h back during the run": (-HOUR, 2.5), "jumps 1 h ahead during the run": (HOUR, 2.5)}


@pytest.mark.parametrize("case", SHIFTS)
def test_f8_wrong_clock(workspace: Path, home: Path, record_property, monkeypatch, case: str):
    from llmops_nb.ground.audit import open_audit
    from llmops_nb.ground.ledger import Ledger, sql, stages
    from llmops_nb.ground.settings import Workspace

    monkeypatch.setenv("LLMOPS_HOME", str(home))
    (seconds, after), space = SHIFTS[case], Workspace(workspace)
    chain(workspace, STEMS)
    (workspace / "settings.ini").write_text("[tracking]\nmode = disabled\n[pipeline]\nkernel = python3\n")
    assert llmops(workspace, "run", "one", home=home).returncode == 0
    wrong = {"CLOCK_SHIFT": str(seconds), "CLOCK_AFTER": str(after), "PYTHONPATH": f"{CLOCK}:{os.environ.get('PYTHONPATH', '')}"}
    shifted = llmops(workspace, "run", "one", "two", "three", home=home, **{k: v for k, v in environment(home, **wrong).items() if k in wrong})
    assert shifted.returncode == 0 and "= 90_one" in shifted.stderr, shifted.stderr
    check_nothing_false(workspace, home)
    again = llmops(workspace, "run", "one", "two", "three", home=home)
    assert again.returncode == 0 and all(f"= {stem}" in again.stderr for stem in STEMS), again.stderr
    rows = Ledger(space.address("ledger")).rows(sql.select(stages).order_by(stages.c.id))
    assert [row["stage"] for row in rows if row["status"] == "done"] == ["one", "two", "three"]
    if not after:
        assert (rows[1]["started"] > rows[0]["started"]) == (seconds > 0), "the clock was wrong indeed"
    log = open_audit(space)
    assert log.verify().ok, str(log.verify())
    entry = log.append("test.now", "tester")
    jumped = [act for act in (one.act for one in log.entries()) if act["clock"] == "ran backwards"]
    assert bool(jumped), f"a jump backwards is in the log: {entry.act['time']}"
    told(record_property, "F8", 1, 1, f"clock {case}: 0 crashes, results kept, order by number, {len(jumped)} jump(s) back in the audit log")
