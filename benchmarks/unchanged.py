"""How long it takes to find out that nothing changed: thirteen equal stages here, with DVC and with Snakemake.

    python benchmarks/unchanged.py [--repeats 5] [--peers FOLDER]

Makes a chain of thirteen small stages three times: as stage notebooks in a workspace, as a dvc.yaml, as a Snakefile. Each is executed once, the outputs are compared
byte by byte, and then the unchanged chain is run again and again, the three in turn. DVC and Snakemake are taken from the path, or from the virtual environment FOLDER
(python -m venv FOLDER; FOLDER/bin/pip install dvc snakemake); those that are missing are left out. Ours verifies signed receipts and writes the run's index page, too.
"""
import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

STAGES = ("objectives", "explore", "prepare", "prompts", "select", "finetune", "evaluate", "secure", "govern", "deploy", "monitor", "improve", "recover")
STEP = """import hashlib, json, pathlib, sys
name, seed, reads, out = sys.argv[1], int(sys.argv[2]), sys.argv[3:-1], pathlib.Path(sys.argv[-1])
text = "".join(pathlib.Path(path).read_text() for path in reads)
out.parent.mkdir(parents=True, exist_ok=True)
out.write_text(json.dumps([name, seed, hashlib.sha256(text.encode()).hexdigest()]))
"""
OURS = """import hashlib, json
from llmops_nb.ground.stage import open_stage
stage = open_stage("{name}", globals())
text = "".join((stage.input(name) / "value.json").read_text() for name in {reads})
(stage.output("{name}_value") / "value.json").write_text(json.dumps(["{name}", seed, hashlib.sha256(text.encode()).hexdigest()]))
"""


def reads_of(place: int) -> tuple[str, ...]:
    "What a stage reads: the two before it."
    return STAGES[max(0, place - 2) : place]


def notebook(place: int) -> dict:
    "The stage notebook of one stage, with every input named as a template names it."
    name, reads = STAGES[place], [f"{read}_value" for read in reads_of(place)]
    code = OURS.format(name=name, reads=reads).replace("(stage.input(name) / \"value.json\").read_text() for name in", "path.read_text() for path in")
    code = code.replace(str(reads), "[" + ", ".join(f'stage.input("{read}") / "value.json"' for read in reads) + "]")
    cells = [{"cell_type": "markdown", "id": "a", "metadata": {}, "source": f"# {name}\n> What does {name} find?"},
             {"cell_type": "code", "id": "b", "metadata": {"tags": ["parameters"]}, "source": "seed: int = 7  # of the stage", "outputs": [], "execution_count": None},
             {"cell_type": "code", "id": "c", "metadata": {}, "source": code, "outputs": [], "execution_count": None},
             {"cell_type": "code", "id": "d", "metadata": {}, "source": "stage.close()", "outputs": [], "execution_count": None}]
    return {"cells": cells, "metadata": {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}, "nbformat": 4, "nbformat_minor": 5}


def make_ours(folder: Path) -> None:
    "A workspace whose thirteen templates replace the built-in ones."
    (folder / "templates").mkdir(parents=True)
    (folder / "settings.ini").write_text("[workspace]\nname = unchanged\n[pipeline]\nkernel = python3\n")
    for place, name in enumerate(STAGES):
        (folder / "templates" / f"{place + 1:02}_{name}.ipynb").write_text(json.dumps(notebook(place)))


def make_dvc(folder: Path) -> None:
    "The same chain as a dvc.yaml."
    folder.mkdir()
    (folder / "step.py").write_text(STEP)
    (folder / "params.yaml").write_text("".join(f"{name}:\n  seed: 7\n" for name in STAGES))
    stages = {}
    for place, name in enumerate(STAGES):
        reads = [f"out/{read}.json" for read in reads_of(place)]
        stages[name] = {"cmd": f"{sys.executable} step.py {name} 7 {' '.join(reads)} out/{name}.json", "deps": ["step.py", *reads], "params": [f"{name}.seed"], "outs": [f"out/{name}.json"]}
    (folder / "dvc.yaml").write_text(json.dumps({"stages": stages}))  # JSON is YAML


def make_snakemake(folder: Path) -> None:
    "The same chain as a Snakefile."
    folder.mkdir()
    (folder / "step.py").write_text(STEP)
    rules = [f"rule all:\n    input: 'out/{STAGES[-1]}.json'\n"]
    for place, name in enumerate(STAGES):
        reads = [f"out/{read}.json" for read in reads_of(place)]
        rules.append(f"rule {name}:\n    input: {', '.join(map(repr, ['step.py', *reads]))}\n    output: 'out/{name}.json'\n    params: seed=7\n"
                     f"    shell: '{sys.executable} step.py {name} {{params.seed}} {' '.join(reads)} {{output}}'\n")
    (folder / "Snakefile").write_text("\n".join(rules))


def run(command: list[str], folder: Path, environment: dict[str, str]) -> tuple[float, str]:
    "Wall seconds and everything that a command printed; stops with its words when it failed."
    started = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}")
    return seconds, done.stdout + done.stderr


def tool(name: str, peers: str) -> str:
    "The path of a peer's command, '' where it is not installed."
    return shutil.which(name, path=str(Path(peers) / "bin")) if peers else shutil.which(name) or ""


def values(contender: str, folder: Path) -> list[str]:
    "What the thirteen stages wrote."
    if contender != "llmops":
        return [(folder / "out" / f"{name}.json").read_text() for name in STAGES]
    from llmops_nb.ground.settings import Workspace
    from llmops_nb.ground.store import Store

    found, store = [], Store(Workspace(folder).address("store"))
    for place, name in enumerate(STAGES):
        result = json.loads((folder / "runs" / "main" / f"{place + 1:02}_{name}" / "result.json").read_text())
        found.append((store.get(result["outputs"][f"{name}_value"], folder / "check" / name) / "value.json").read_text())
    return found


def main() -> None:
    "Make, execute once, compare, then repeat and print."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peers", default="", help="virtual environment with dvc and snakemake")
    given = parser.parse_args()
    root = Path(tempfile.mkdtemp())
    environment = {**os.environ, "LLMOPS_HOME": str(root / "home"), "LLMOPS_CACHE": str(root / "cache"), "DVC_NO_ANALYTICS": "1", "HOME": str(root)}
    commands = {"llmops": [shutil.which("llmops", path=str(Path(sys.executable).parent)) or "llmops", "run"]}
    commands |= {name: [path, *words] for name, words in (("dvc", ["repro"]), ("snakemake", ["--cores", "1"])) if (path := tool(name, given.peers))}
    makers = {"llmops": make_ours, "dvc": make_dvc, "snakemake": make_snakemake}
    for name, command in commands.items():
        makers[name](root / name)
        if name == "dvc":
            run([command[0], "init", "--no-scm", "-q"], root / name, environment)
        run(command, root / name, environment)
    written = {name: values(name, root / name) for name in commands}
    if any(found != written["llmops"] for found in written.values()):
        sys.exit("The contenders did not write the same values; nothing was measured.")
    time.sleep(3)  # files settle: none of the three trusts times that are a moment old
    said = {name: run(command, root / name, environment)[1] for name, command in commands.items()}
    ran = {"llmops": said["llmops"].count("nothing changed") != 13, "dvc": "Running stage" in said.get("dvc", ""), "snakemake": "Nothing to be done" not in said.get("snakemake", "Nothing to be done")}
    if any(ran.values()):
        sys.exit(f"Something was executed though nothing changed: {ran}\n{said}")
    words = {"llmops run": ("llmops", commands["llmops"]), "llmops status": ("llmops", [commands["llmops"][0], "status"]), "llmops --help": ("llmops", [commands["llmops"][0], "--help"])}
    words |= {" ".join([Path(command[0]).name, *command[1:]]): (name, command) for name, command in commands.items() if name != "llmops"}
    times: dict[str, list[float]] = {name: [] for name in words}
    for _ in range(given.repeats):
        for name, (place, command) in words.items():
            times[name].append(run(command, root / place, environment)[0])
    middle = {name: statistics.median(found) for name, found in times.items()}
    versions = {name: run([command[0], "--version"], root / name, environment)[1].strip() for name, command in commands.items() if name != "llmops"}
    print(f"llmops_nb {metadata.version('llmops_nb')}, {', '.join(f'{name} {version}' for name, version in versions.items())}, Python {platform.python_version()}; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {given.repeats} alternations")
    for name, found in times.items():
        share = f"  llmops run takes {middle['llmops run'] / middle[name]:.2f}× of it" if name not in ("llmops run", "llmops status", "llmops --help") else ""
        print(f"{name:<24} {middle[name]:6.2f} s  [{min(found):.2f}–{max(found):.2f}]{share}")
    shutil.rmtree(root)


if __name__ == "__main__":
    main()
