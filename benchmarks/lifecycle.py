"""How long the whole lifecycle takes on this machine, and how long when nothing changed.

    python benchmarks/lifecycle.py [-n 3] [--real FOLDER_OF_PUBLIC_DATA]

Each repetition is a new workspace. Prints medians and spread of wall time, and the largest peak memory of any one process. With --real the run is on Banking77 with
CLINC150 traffic and the Azure arrival trace instead of on the built-in data.
"""
import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil


def watch(process: subprocess.Popen, peaks: list[float]) -> None:
    "Add the summed resident memory of a process and its children to `peaks`, five times a second, until it ends."
    while process.poll() is None:
        try:
            family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            peaks.append(sum(p.memory_info().rss for p in family if p.is_running()) / 1e9)
        except psutil.Error:
            continue
        time.sleep(0.2)


def timed(command: list[str], folder: Path, home: Path) -> tuple[float, float, int]:
    "Wall seconds, peak gigabytes of all its processes together, and the exit code of a command."
    started, peaks = time.monotonic(), [0.0]
    process = subprocess.Popen(command, cwd=folder, env={**os.environ, "LLMOPS_HOME": str(home)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    watcher = threading.Thread(target=watch, args=(process, peaks))
    watcher.start()
    code = process.wait()
    watcher.join()
    return time.monotonic() - started, max(peaks), code


def words(real: str) -> list[str]:
    "The parameters of the run."
    if not real:
        return ["-p", "policy=demo"]
    data = Path(real).resolve()
    given = {"policy": "demo", "data": data / "banking77/train.csv", "text_column": "text", "label_column": "category", "test_rows": data / "banking77/dev_rows.txt",
             "traffic": data / "clinc150/data_full_train_val.json", "arrivals": data / "azure_llm_trace/conv_part1.csv"}
    return [word for name, value in given.items() for word in ("-p", f"{name}={value}")]


def main() -> None:
    "Repeat, and print."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=3)
    parser.add_argument("--real", default="")
    given = parser.parse_args()
    llmops = [sys.executable, "-m", "llmops_nb.desk.cli"]
    rows = []
    for _ in range(given.n):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            timed([*llmops, "init", "bot"], root, root / "home")
            first = timed([*llmops, "run", *words(given.real)], root / "bot", root / "home")
            second = timed([*llmops, "run", *words(given.real)], root / "bot", root / "home")
            rows.append({"first_s": first[0], "first_gb": first[1], "second_s": second[0], "exits": [first[2], second[2]]})
            print(json.dumps(rows[-1]), file=sys.stderr)
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {given.n} repetitions, {'Banking77' if given.real else 'builtin:support'}")
    for name, unit in (("first_s", "s, whole lifecycle"), ("second_s", "s, nothing changed"), ("first_gb", "GB, all processes together")):
        values = sorted(row[name] for row in rows)
        print(f"{statistics.median(values):8.2f} [{values[0]:.2f} - {values[-1]:.2f}] {unit}")


if __name__ == "__main__":
    main()
