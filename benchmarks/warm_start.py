"""Start to first cell: plain papermill with the ordinary kernel, papermill with a warm one, and our engine with a warm one; and what warm kernels cost in memory.

    python benchmarks/warm_start.py [--repeats 5] [--only memory]

Each repetition is a fresh process that executes a notebook; the three alternate. Two times to the end of the notebook's first cell: from the call that executes it, when papermill has been imported (that is
the kernel's share), and from the start of the process. All must have put out the same before anything is timed.
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

import psutil

CELLS = {"heavy imports": "import torch, transformers, datasets, peft, wandb, pandas, seaborn\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\nfrom peft import LoraConfig",
         "nothing": "1 + 1"}
PLAIN = "import sys, time, papermill; print(time.time()); papermill.execute_notebook(sys.argv[1], sys.argv[2], kernel_name=sys.argv[3], progress_bar=False)"
OURS = ("import os, sys, time; from pathlib import Path; from llmops_nb.notebooks.kernel import execute_notebook, import_papermill; import_papermill(); print(time.time());"
        "execute_notebook(Path(sys.argv[1]), Path(sys.argv[2]), {}, dict(os.environ), Path.cwd(), sys.argv[3])")
WAYS = {"papermill, ordinary kernel": (PLAIN, "python3"), "papermill, warm kernel": (PLAIN, "llmops"), "our engine, warm kernel": (OURS, "llmops")}


def write_notebook(path: Path, code: str) -> Path:
    "A notebook with one cell of work and one that says when it is reached."
    cells = [{"cell_type": "code", "id": f"c{n}", "metadata": {}, "outputs": [], "execution_count": None, "source": source} for n, source in enumerate((code, "import time; print(time.time())"))]
    kernel = {"name": "python3", "language": "python", "display_name": "Python 3"}
    path.write_text(json.dumps({"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}))
    return path


def execute(notebook: Path, way: str) -> tuple[float, float, float, list]:
    "Seconds from the call to the end of the first cell, from the start of the process to there, in all, and what the first cell put out."
    program, kernel = WAYS[way]
    target = notebook.with_name("out.ipynb")
    started = time.time()
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program, str(notebook), str(target), kernel], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    ended = time.time()
    called = float(done.stdout.split()[0])
    cells = [cell for cell in json.loads(target.read_text())["cells"] if cell["source"] and "parameters" not in cell["metadata"].get("tags", [])]
    reached = float("".join(cells[-1]["outputs"][0]["text"]))
    return reached - called, reached - started, ended - started, ["".join(output["data"]["text/plain"]) for output in cells[0]["outputs"] if output["output_type"] != "stream"]


def line(values: list[float]) -> str:
    "Median and spread of seconds."
    return f"{statistics.median(values):6.2f} s [{min(values):.2f}–{max(values):.2f}]"


def own_megabytes(process: psutil.Process) -> float:
    "Memory that would be free if this process ended."
    return process.memory_full_info().uss / 1e6


def show_memory() -> None:
    "Print the memory of a parent, of a fork that imports everything, and of an ordinary kernel that does."
    from jupyter_client.manager import start_new_kernel

    kernels = {name: [start_new_kernel(kernel_name=name) for _ in range(count)] for name, count in (("llmops", 3), ("python3", 1))}
    for pairs in kernels.values():
        for _, client in pairs:
            client.execute_interactive(CELLS["heavy imports"], output_hook=lambda message: None)
    forks = [own_megabytes(psutil.Process(manager.provisioner.pid)) for manager, _ in kernels["llmops"]]
    parent = psutil.Process(kernels["llmops"][0][0].provisioner.pid).parent()
    ordinary = own_megabytes(psutil.Process(kernels["python3"][0][0].provisioner.pid))
    for pairs in kernels.values():
        for manager, client in pairs:
            client.stop_channels()
            manager.shutdown_kernel(now=True)
    print(f"\nmemory (USS): the parent alone {own_megabytes(parent):.0f} MB, each of 3 forks beyond it {statistics.median(forks):.0f} MB, an ordinary kernel with the same imports {ordinary:.0f} MB")


def compare(what: str, notebook: Path, repeats: int) -> None:
    "Check that all ways put out the same, alternate them, print medians and spread."
    cold = execute(notebook, "papermill, warm kernel")
    assert all(execute(notebook, way)[3] == cold[3] for way in WAYS), "the kernels put out different things"
    times: dict[str, list[tuple]] = {way: [] for way in WAYS}
    for _ in range(repeats):
        for way, seen in times.items():
            seen.append(execute(notebook, way)[:3])
    print(f"\n{what} (load {os.getloadavg()[0]:.1f}; the first one, which started the parent: {cold[0]:.2f} s from the call)")
    for way, seen in times.items():
        called, started, total = zip(*seen)
        print(f"  {way:27} first cell: from the call {line(called)}   from the start {line(started)}   in all {line(total)}")
    usual, ours = times["papermill, ordinary kernel"], times["our engine, warm kernel"]
    ratios = [statistics.median(one[column] / two[column] for one, two in zip(usual, ours)) for column in range(3)]
    print("  papermill with the ordinary kernel : ours = " + ", ".join(f"{ratio:.1f}" for ratio in ratios) + " (medians of the pairs, same columns)", flush=True)


def main() -> None:
    "Check, time, print."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", default="", help="one of the notebooks, or 'memory'")
    given = parser.parse_args()
    names = ("torch", "transformers", "papermill", "jupyter_client", "ipykernel")
    print(platform.platform(), f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python {platform.python_version()},", ", ".join(f"{name} {metadata.version(name)}" for name in names))
    from llmops_nb.notebooks.provisioner import stop_parents

    with tempfile.TemporaryDirectory(dir="/tmp", prefix="b") as place:
        os.environ["LLMOPS_WARM_FOLDER"] = f"{place}/w"
        try:
            for what, code in CELLS.items():
                if given.only in ("", what):
                    compare(what, write_notebook(Path(place) / "work.ipynb", code), given.repeats)
            if given.only in ("", "memory"):
                show_memory()
        finally:
            stop_parents()


if __name__ == "__main__":
    main()
