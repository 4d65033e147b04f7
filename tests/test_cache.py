"The key of a stage covers the code that the stage can reach: all of it, and nothing else."
import ast
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llmops_nb.ground.stage import find_templates, template_code
from llmops_nb.notebooks.memory import Memory
from llmops_nb.notebooks.symbols import read_symbols
from llmops_nb.notebooks.uses import Library, reach, this_library

ROOT = Path(__file__).resolve().parents[1]
TEMPLATES = find_templates()

# runs the code of templates as one program after another, in one process, and writes down every function of ours that was called
TRACER = """
import json, sys, threading
from pathlib import Path
called, package = set(), sys.argv[1]
def note(frame, event, argument):
    code = frame.f_code
    if event == "call" and code.co_flags & 1 and code.co_filename.startswith(package) and not code.co_qualname.startswith("<"):
        called.add((code.co_filename, code.co_qualname.split(".")[0]))
source = json.loads(Path(sys.argv[2]).read_text())
threading.setprofile(note); sys.setprofile(note)
try:
    exec(compile(source, "<template>", "exec"), {"__name__": "__main__"})
finally:
    sys.setprofile(None); threading.setprofile(None)
    Path(sys.argv[3]).write_text(json.dumps(sorted(called)))
"""


def called_by(stem: str, workspace: Path, **values: object) -> set[tuple[str, str]]:
    "Module and definition of every function of ours that a template's code calls when it is executed with these parameters."
    source = template_code(TEMPLATES[stem])
    for name, value in values.items():
        lines = [line for line in source.splitlines() if line.startswith(f"{name}:")]
        source = source.replace(lines[0], f"{lines[0].partition(' = ')[0]} = {value!r}")
    (workspace / "program.json").write_text(json.dumps(source))
    package = this_library().folder
    environment = {**os.environ, "LLMOPS_WORKSPACE": str(workspace), "MPLBACKEND": "agg", "PYTHONPATH": str(package.parent)}
    done = subprocess.run([sys.executable, "-c", TRACER, str(package), str(workspace / "program.json"), str(workspace / "called.json")], env=environment, cwd=workspace, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    names = {str(path): name for name in known_modules() if (path := this_library().path(name))}
    return {(names[file], definition) for file, definition in json.loads((workspace / "called.json").read_text()) if file in names}


def known_modules() -> list[str]:
    "The dotted names of all modules."
    library, found = this_library(), ["llmops_nb"]
    for name in found:
        found += library.below(name)
    return found


def test_every_function_that_a_stage_calls_is_among_those_that_it_reaches(tmp_path, monkeypatch):
    from llmops_nb.govern.objectives import DEFAULT_OBJECTIVES
    from llmops_nb.ground.settings import create_workspace

    monkeypatch.setenv("LLMOPS_HOME", str(tmp_path / "home"))
    workspace = create_workspace(tmp_path / "w", {"objectives.toml": DEFAULT_OBJECTIVES}).root
    for stem, values in (("01_objectives", {}), ("02_explore", {"limit": 400}), ("03_prepare", {}), ("04_prompts", {"sample": 4})):
        found, reached = called_by(stem, workspace, **values), reach(read_symbols(template_code(TEMPLATES[stem]), "__main__"), this_library()).modules
        unseen = sorted(f"{module}.{name}" for module, name in found if name not in reached.get(module, {}))
        assert len(found) > 20 and not unseen, f"{stem} called what its key does not cover: {unseen}"


def edit(source: str, name: str) -> str:
    "The source with the definition `name` changed in what it does, '' where that is not done here."
    node = next((n for n in ast.parse(source).body if getattr(n, "name", None) == name or (isinstance(n, ast.Assign) and isinstance(n.targets[0], ast.Name) and n.targets[0].id == name)), None)
    lines = source.split("\n")
    if node is None:
        return ""
    if isinstance(node, ast.Assign):
        lines.insert(node.end_lineno, f"{name} = {name}")
    elif node.body[0].lineno == node.lineno:
        return ""
    else:
        lines.insert(node.body[0].lineno - 1, " " * node.body[0].col_offset + "changed = 1")
    return "\n".join(lines)


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    "A copy of the package that can be edited."
    folder = tmp_path_factory.mktemp("copy") / "llmops_nb"
    shutil.copytree(this_library().folder, folder, ignore=shutil.ignore_patterns("*.safetensors", "__pycache__"))
    return folder


@pytest.mark.parametrize("stem", ["01_objectives", "03_prepare", "10_deploy"])
def test_one_edit_changes_the_keys_of_those_who_reach_it_and_of_nobody_else(stem, copy, tmp_path):
    base, symbols = Library(copy, Memory(tmp_path / "none")), read_symbols(template_code(TEMPLATES[stem]), "__main__")
    before, draw = reach(symbols, base), random.Random(7)
    every = [(module, name) for module in known_modules() if base.path(module) for name in base.symbols(module).definitions]
    inside = [place for place in every if place[1] in before.modules.get(place[0], {})]
    outside = [place for place in every if place not in set(inside)]
    tried = {True: 0, False: 0}
    for module, name in draw.sample(inside, 40) + draw.sample(outside, 40):
        path = base.path(module)
        original, changed = path.read_text(), edit(path.read_text(), name)
        if not changed:
            continue
        path.write_text(changed)
        try:
            after = reach(symbols, Library(copy, Memory(tmp_path / "none"), {other: found for other, found in base.known.items() if other != module}))
        finally:
            path.write_text(original)
        is_inside = (module, name) in set(inside)
        tried[is_inside] += 1
        assert (after.digest != before.digest) == is_inside, f"{module}.{name}: {'no' if is_inside else 'a'} change was seen by {stem}"
        assert not is_inside or after.modules[module][name] != before.modules[module][name]
    assert min(tried.values()) >= 20, tried


def test_formatting_comments_and_docstrings_change_nothing(copy, tmp_path):
    symbols = read_symbols(template_code(TEMPLATES["10_deploy"]), "__main__")
    before = reach(symbols, Library(copy, Memory(tmp_path / "none")))
    for module in before.modules:
        path = Library(copy, Memory(tmp_path / "none")).path(module)
        path.write_text("# prose\n\n" + ast.unparse(ast.parse(path.read_text())).replace('"""\n', ' Prose."""\n'))
    assert reach(symbols, Library(copy, Memory(tmp_path / "none"))) == before


def test_the_library_has_nothing_that_the_graph_cannot_see():
    for path in this_library().folder.rglob("*.py"):
        source = path.read_text()
        if path.parent.name == "notebooks":
            continue  # the engine itself, and this analysis
        for word in ("__init_subclass__", "__subclasses__", "__set_name__", "entry_points(", "import *"):
            assert word not in source, f"{path} uses {word}, which the code graph does not follow; say there what it reaches"
        tree = ast.parse(source)
        assert not any(isinstance(node, ast.FunctionDef) and node.name == "__getattr__" for node in tree.body), f"{path} has a module __getattr__"


def test_what_another_process_runs_is_counted():
    reached = reach(read_symbols(template_code(TEMPLATES["10_deploy"]), "__main__"), this_library()).modules
    assert {"main", "build_service", "start_server"} <= set(reached["llmops_nb.serve.process"]) and "serve_forever" in json.dumps(reached)
    loader = reach(read_symbols("from llmops_nb.measure.metrics import load_evaluate_metric as f\nf()" if "load_evaluate_metric" in this_library().symbols("llmops_nb.measure.metrics").definitions else "import llmops_nb.measure.metrics as m\nprint(m)", "__main__"), this_library())
    assert "measure" in loader.layers and {"accuracy", "rouge"} <= set(loader.modules["llmops_nb.measure.metrics"])


def test_a_memory_survives_writers_that_overwrite_each_other(tmp_path):
    code = "import sys; from pathlib import Path; from llmops_nb.notebooks import memory as m; m.settled = lambda state: True\nfor n in range(40):\n" \
           " k = m.Memory(Path(sys.argv[1])); k.recall(Path(m.__file__), f'{sys.argv[2]} {n}', lambda: n); k.save()"
    writers = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "facts.json"), str(i)], env={**os.environ, "PYTHONPATH": str(ROOT)}) for i in range(3)]
    while any(writer.poll() is None for writer in writers):
        if (tmp_path / "facts.json").exists():
            data = (tmp_path / "facts.json").read_bytes()
            digest, _, rest = data.partition(b"\n")
            json.loads(rest)
    assert all(writer.returncode == 0 for writer in writers) and len(Memory(tmp_path / "facts.json").facts) >= 40
