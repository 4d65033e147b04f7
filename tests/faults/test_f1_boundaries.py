"F1: the runner is killed at each boundary between two stages, just before and just after the receipt gets its name."
import signal
from collections import Counter
from pathlib import Path

import pytest
from conftest import llmops
from harness import LIFECYCLE, chain, check_nothing_false, no_kernel_is_left, start, times, told

pytestmark = pytest.mark.slow

BOUNDARY = str(Path(__file__).with_name("boundary.py"))


@pytest.mark.parametrize("passage", range(times(1, 10)))
def test_f1_killed_at_every_boundary(workspace: Path, home: Path, record_property, passage: int):
    "One workspace, thirteen stages, 26 kills: every run goes on where the one before was killed."
    chain(workspace, LIFECYCLE)
    kills = 0
    for stem in LIFECYCLE:
        for when in ("before", "after"):
            runner = start(workspace, home, "receipt.json", stem, when, "run", program=(BOUNDARY,))
            output, errors = runner.communicate(timeout=120)
            assert runner.returncode == -signal.SIGKILL, f"{stem} {when}: {output}{errors}"
            kills += 1
            check_nothing_false(workspace, home)
            assert (workspace / "runs/main" / stem / "receipt.json").exists() == (when == "after")
    no_kernel_is_left(workspace)
    last = llmops(workspace, "run", home=home)
    assert last.returncode == 0 and "13 of 13" in last.stdout, last.stdout + last.stderr
    check_nothing_false(workspace, home)
    effects = Counter((workspace / "effects.txt").read_text().split())
    assert effects == Counter({stem: 2 for stem in LIFECYCLE}), "once before the kill that came before the receipt, once after it; a stage with a receipt does not run again"
    told(record_property, "F1", kills, 26, "0 false done, 0 stages executed again after their receipt, every run went on at the right stage")
