"The engine from the command line: matrices, parts of a run, stages side by side, secrets that stay where they are."
import json
import secrets as randomness
from pathlib import Path

from conftest import llmops
from test_tracking import write_stage


def canaries(count: int) -> dict[str, str]:
    "Secrets under names that sound like secrets, all different."
    return {f"SERVICE_{number}_API_KEY": f"sk-{randomness.token_hex(16)}" for number in range(count)}


def holders(folder: Path, values: list[str]) -> list[str]:
    "The files below a folder that hold one of the values, as it is or in base64."
    import base64

    wanted = [form for value in values for form in (value.encode(), base64.b64encode(value.encode()).rstrip(b"="))]
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and any(form in path.read_bytes() for form in wanted)]


def test_no_secret_leaves_the_environment(workspace: Path, home: Path) -> None:
    "S20: 200 secrets are printed, displayed, tabulated and raised; none is in a notebook, report, ledger, tracker file, receipt or in what the command says."
    hidden = canaries(200)
    write_stage(workspace, "90_leak", "import os, base64, pandas as pd\nkeys = [v for n, v in os.environ.items() if n.startswith('SERVICE_')]\nassert len(keys) == 200\nprint(*keys, sep='\\n')\nstage.table('keys', pd.DataFrame({'key': keys}))\ndisplay(keys[:3], {'Authorization': base64.b64encode(keys[4].encode()).decode()})")
    write_stage(workspace, "91_raise", "import os, sys\nprint(os.environ['SERVICE_7_API_KEY'], file=sys.stderr)\nraise ValueError('refused: ' + os.environ['SERVICE_8_API_KEY'])")
    first = llmops(workspace, "run", "90", home=home, **hidden)
    second = llmops(workspace, "run", "91", home=home, **hidden)
    assert first.returncode == 0 and second.returncode == 1, first.stderr + second.stderr
    assert "[secret SERVICE_8_API_KEY]" in second.stdout + second.stderr
    assert not [value for value in hidden.values() if value in first.stdout + first.stderr + second.stdout + second.stderr]
    assert "[secret SERVICE_0_API_KEY]" in (workspace / "runs/main/90_leak/notebook.ipynb").read_text()
    assert holders(workspace, list(hidden.values())) == [] and holders(home, list(hidden.values())) == []
    print(f"secrets: {len(hidden)} shown in five ways, 0 kept")


def test_an_artifact_or_parameter_with_a_secret_is_refused(workspace: Path, home: Path) -> None:
    "What cannot be cleaned without becoming something else is not kept at all."
    hidden = canaries(1)
    write_stage(workspace, "90_keep", "import os\n(stage.output('settings') / 'a.json').write_text(os.environ['SERVICE_0_API_KEY'])", "note: str = ''  # any words")
    refused = llmops(workspace, "run", "90", home=home, **hidden)
    assert refused.returncode == 1 and "a.json holds the value of $SERVICE_0_API_KEY" in refused.stdout
    given = llmops(workspace, "run", "90", "-p", f"note={hidden['SERVICE_0_API_KEY']}", home=home, **hidden)
    assert given.returncode == 1 and "holds the value of $SERVICE_0_API_KEY" in given.stderr
    assert holders(workspace / "runs", list(hidden.values())) == []


def test_a_declared_secret_counts_whatever_its_name(workspace: Path, home: Path) -> None:
    "A name in [pipeline] secrets is treated like one that sounds secret."
    (workspace / "settings.ini").write_text("[tracking]\nmode = disabled\n[pipeline]\nsecrets = BADGE\n")
    write_stage(workspace, "90_show", "import os\nprint(os.environ['BADGE'])")
    assert llmops(workspace, "run", "90", home=home, BADGE="blue-heron-77").returncode == 0
    assert holders(workspace / "runs", ["blue-heron-77"]) == []


def test_matrix_shares_what_is_equal_and_compares(workspace: Path, home: Path) -> None:
    "Two values make two runs and one page; the stage that does not read the parameter is executed once; `--until` ends a run early."
    (workspace / "settings.ini").write_text("[tracking]\nmode = disabled\n")
    write_stage(workspace, "90_one", "stage.metric('one', 1)")
    write_stage(workspace, "91_two", "stage.input('90_one_out')\nstage.metric('load', 10 * weight, low=10 * weight - 1, high=10 * weight + 1)", "weight: float = 1.0  # kilograms")
    done = llmops(workspace, "run", "90", "91", "-p", "weight=1,2.5", home=home)
    assert done.returncode == 0, done.stderr
    assert "taken over from run main-weight-1" in done.stderr
    page = json.loads((workspace / "runs/main-matrix/comparison.json").read_text())
    assert [run["varied"] for run in page["runs"]] == [{"weight": "1"}, {"weight": "2.5"}]
    loads = next(row["runs"] for row in page["metrics"] if row["name"] == "load")
    assert [metric["value"] for metric in loads] == [10.0, 25.0]
    part = llmops(workspace, "run", "--from", "90", "--until", "90", "--run", "part", home=home)
    assert part.returncode == 0 and "91_two" not in part.stderr
    backwards = llmops(workspace, "run", "--from", "91", "--until", "90", home=home)
    assert backwards.returncode == 1 and "comes before" in backwards.stderr


def test_a_setting_that_is_no_number_is_one_message(workspace: Path, home: Path) -> None:
    "Numbers in [pipeline] are looked at before any work."
    write_stage(workspace, "90_one", "stage.metric('one', 1)")
    for line in ("parallel = many", "threads = 0", "timeout = -1", "parallel = nan"):
        (workspace / "settings.ini").write_text(f"[tracking]\nmode = disabled\n[pipeline]\n{line}\n")
        refused = llmops(workspace, "run", "90", home=home)
        assert refused.returncode == 1 and "is not a number of at least" in refused.stderr and "Traceback" not in refused.stderr, refused.stderr
        assert not (workspace / "runs").exists()
