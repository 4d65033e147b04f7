"""Start to first cell: papermill with the ordinary kernel against papermill with a warm one, and what warm kernels cost in memory.

    python benchmarks/warm_start.py [--repeats 5]

Each repetition is a fresh Python process that imports papermill and executes a notebook; ordinary and warm alternate. The time is from the start of that process to the end of the notebook's first cell,
and, in the second column, to the end of the process. Both kernels' notebooks must have put out the same before anything is timed.
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
RUN = "import sys, papermill; papermill.execute_notebook(sys.argv[1], sys.argv[2], kernel_name=sys.argv[3], progress_bar=False)"


def write_notebook(path: Path, code: str) -> Path:
    "A notebook with one cell of work and one that says when it is reached."
    cells = [{"cell_type": "code", "id": f"c{n}", "metadata": {}, "outputs": [], "execution_count": None, "source": source} for n, source in enumerate((code, "import time; print(time.time())"))]
    kernel = {"name": "python3", "language": "python", "display_name": "Python 3"}
    path.write_text(json.dumps({"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}))
    return path


def execute(notebook: Path, kernel: str) -> tuple[float, float, list]:
    "Seconds to the end of the first cell, seconds in all, and what the first cell put out."
    target = notebook.with_name("out.ipynb")
    started = time.time()
    subprocess.run([sys.executable, "-W", "ignore", "-c", RUN, str(notebook), str(target), kernel], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    ended = time.time()
    first, second = json.loads(target.read_text())["cells"]
    return float(second["outputs"][0]["text"][0]) - started, ended - started, [output for output in first["outputs"] if output["output_type"] != "stream"]


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
    print(f"memory (USS): parent {own_megabytes(parent):.0f} MB (resident {parent.memory_info().rss / 1e6:.0f}), each of 3 forks {statistics.median(forks):.0f} MB, an ordinary kernel {ordinary:.0f} MB")
    for pairs in kernels.values():
        for manager, client in pairs:
            client.stop_channels()
            manager.shutdown_kernel(now=True)


def main() -> None:
    "Check, time, print."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    names = ("torch", "transformers", "papermill", "jupyter_client", "ipykernel")
    print(platform.platform(), f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python {platform.python_version()},", ", ".join(f"{name} {metadata.version(name)}" for name in names))
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="b") as place:
        os.environ["LLMOPS_WARM_FOLDER"] = f"{place}/w"
        for what, code in CELLS.items():
            notebook = write_notebook(Path(place) / "work.ipynb", code)
            cold = execute(notebook, "llmops")
            assert cold[2] == execute(notebook, "python3")[2], "the two kernels put out different things"
            times: dict[str, list[tuple[float, float]]] = {"python3": [], "llmops": []}
            for _ in range(repeats):
                for kernel, seen in times.items():
                    seen.append(execute(notebook, kernel)[:2])
            for kernel, seen in times.items():
                print(f"{what:14} {kernel:8} first cell done {line([first for first, _ in seen])}   in all {line([total for _, total in seen])}")
            ratios = [statistics.median(column) for column in zip(*([o / w for o, w in zip(one, two)] for one, two in zip(times["python3"], times["llmops"])))]
            print(f"{what:14} {'':8} {ratios[0]:.1f}x to the first cell, {ratios[1]:.1f}x in all (medians of the pairs); the warm kernel that had to start its parent: {cold[0]:.2f} s; load {os.getloadavg()[0]:.1f}")
        show_memory()
        from llmops_nb.notebooks.provisioner import stop_parents

        stop_parents()


if __name__ == "__main__":
    main()
