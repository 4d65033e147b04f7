"""A runner that kills itself (kill -9) when it is about to give a file its final name, or has just done so.

    python boundary.py FILE FOLDER WHEN WORD...   like `llmops WORD...`; FILE is receipt.json, FOLDER a stage's folder, WHEN before or after
"""
import os
import signal
import sys
from pathlib import Path

name, folder, when = sys.argv[1:4]
rename = os.replace


def replace(source, target, **more):
    "os.replace, deadly at one place."
    here = Path(target).name == name and Path(target).parent.name == folder
    if here and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    rename(source, target, **more)
    if here and when == "after":
        os.kill(os.getpid(), signal.SIGKILL)


os.replace = replace
from llmops_nb.desk.cli import main  # noqa: E402

sys.exit(main(sys.argv[4:]))
