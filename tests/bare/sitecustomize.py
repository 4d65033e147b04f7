"With this folder on PYTHONPATH, the modules that ABSENT_MODULES names are not installed, as far as any process can see."
import os
import sys
from importlib.machinery import PathFinder

ABSENT = set(os.environ.get("ABSENT_MODULES", "").split())


class Bare(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in ABSENT else super().find_spec(name, path, target)


sys.meta_path[sys.meta_path.index(PathFinder)] = Bare
