"""What the engine costs: the whole lifecycle as `llmops run`, as one plain Python script, and through plain papermill.

    python benchmarks/overhead.py [--repeats 5] [--until 07_evaluate]

All three execute the same template code with the same parameters (method=lora, policy=demo) in new workspaces, alternating. The script has one process and writes no notebooks, receipts or reports;
papermill starts one ordinary kernel a notebook and writes notebooks. Before the times count, the repeatable artifacts of the three are compared by digest.
"""
import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

PARAMETERS = {"policy": "demo", "method": "lora"}
ENVIRONMENT = {"PYTHONHASHSEED": "0", "MKL_CBWR": "AVX2,STRICT", "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false", "MPLBACKEND": "agg", "WANDB_MODE": "disabled", "PYTHONWARNINGS": "ignore"}


def templates(until: str) -> list[Path]:
    "The stage templates in order, up to and including `until`."
    from llmops_nb.ground.stage import find_templates

    return [path for stem, path in find_templates().items() if not until or stem <= until]


def wanted(template: Path) -> dict[str, str]:
    "Those of the parameters that a template declares."
    from llmops_nb.notebooks.parameters import parameters_of

    names = {parameter.name for parameter in parameters_of(template)}
    return {name: value for name, value in PARAMETERS.items() if name in names}


def as_script(until: str) -> None:
    "Execute the templates' code here, one after the other, in this one process."
    for template in templates(until):
        cells = [cell for cell in json.loads(template.read_text())["cells"] if cell["cell_type"] == "code"]
        space: dict[str, object] = {"__name__": "__main__"}
        for cell in cells:
            exec(compile("".join(cell["source"]), template.name, "exec"), space)
            if "parameters" in cell["metadata"].get("tags", []):
                space.update(wanted(template))


def as_papermill(until: str) -> None:
    "Execute the templates with papermill and the ordinary kernel."
    import papermill

    for template in templates(until):
        papermill.execute_notebook(str(template), f"{template.stem}.ipynb", parameters=wanted(template), kernel_name="python3", progress_bar=False)


def timed(kind: str, until: str) -> tuple[float, float, dict[str, str]]:
    "Wall seconds, CPU seconds and the repeatable artifacts of one way, in a new workspace."
    with tempfile.TemporaryDirectory() as folder:
        root, home = Path(folder) / "bot", Path(folder) / "home"
        environment = {**os.environ, **ENVIRONMENT, "LLMOPS_HOME": str(home), "LLMOPS_WORKSPACE": str(root)}
        llmops = [sys.executable, "-m", "llmops_nb.desk.cli"]
        subprocess.run([*llmops, "init", str(root)], env=environment, check=True, stdout=subprocess.DEVNULL, cwd=folder)
        (root / "settings.ini").write_text("[tracking]\nmode = disabled\n")
        words = [word for name, value in PARAMETERS.items() for word in ("-p", f"{name}={value}")]
        command = [*llmops, "run", *words, *(["--until", until] if until else [])] if kind == "llmops" else [sys.executable, str(Path(__file__).resolve()), "--as", kind, "--until", until]
        before, started = os.times(), time.monotonic()
        done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True)
        wall, after = time.monotonic() - started, os.times()
        if done.returncode:
            raise SystemExit(f"{kind} ended with {done.returncode}: {done.stdout[-500:]} {done.stderr[-1500:]}")
        return wall, after.children_user + after.children_system - before.children_user - before.children_system, artifacts(root)


def artifacts(root: Path) -> dict[str, str]:
    "The digests of what the stages of a workspace wrote, by name."
    from llmops_nb.ground import ledger as books
    from llmops_nb.ground.ledger import Ledger
    from llmops_nb.ground.settings import Workspace

    ledger = Ledger(Workspace(root).address("ledger"))
    return {row["name"]: row["digest"] for row in ledger.rows(books.sql.select(books.lineage).where(books.lineage.c.direction == "out").order_by(books.lineage.c.id))}


def main() -> None:
    "Repeat, compare, print."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--until", default="", help="the last stage, for a shorter benchmark")
    parser.add_argument("--as", dest="kind", default="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.kind:
        {"script": as_script, "papermill": as_papermill}[given.kind](given.until)
        return
    rows: dict[str, list[tuple[float, float]]] = {"script": [], "llmops": [], "papermill": []}
    first: dict[str, str] = {}
    for _ in range(given.repeats):
        for kind, found in rows.items():
            wall, cpu, made = timed(kind, given.until)
            first = first or made
            different = [name for name in first if name != "release" and made.get(name) != first[name]]  # a release names its run
            assert not different, f"{kind} made other bytes: {different}"
            found.append((wall, cpu))
            print(f"{kind} {wall:.1f} s wall, {cpu:.1f} s CPU, load {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)
    print(f"Python {platform.python_version()}, papermill {metadata.version('papermill')}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {given.repeats} repetitions, {len(first)} artifacts equal")
    base = statistics.median(wall for wall, _ in rows["script"])
    for kind, found in rows.items():
        walls = sorted(wall for wall, _ in found)
        print(f"{kind:<10} {statistics.median(walls):7.1f} s [{walls[0]:.1f} - {walls[-1]:.1f}] wall, {statistics.median(cpu for _, cpu in found):7.1f} s CPU, {statistics.median(walls) / base:.2f} of the script")


if __name__ == "__main__":
    main()
