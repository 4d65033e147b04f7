"Checks of the house itself: layers, exports, metadata, notebooks, and what may be imported when."
import ast
import json
import re
import subprocess
import sys
import tomllib
from configparser import ConfigParser
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = [path.name.partition("_")[2] for path in sorted((ROOT / "nbs").glob("[0-9][0-9]_*"))]
NOTEBOOKS = sorted((ROOT / "nbs").glob("[0-9]*/*.ipynb"))
TEMPLATES = sorted((ROOT / "templates").glob("*.ipynb"))
HEAVY = {"torch", "transformers", "datasets", "peft", "evaluate", "wandb", "papermill", "trl", "accelerate"}


def code_of(path: Path) -> list[str]:
    "The sources of a notebook's code cells."
    return ["".join(cell["source"]) for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def imports_of(source: str) -> set[str]:
    "The dotted names that a program imports, absolute ones only."
    nodes = list(ast.walk(ast.parse(source)))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return plain | {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level}


def exported(path: Path) -> tuple[str, str] | None:
    "The module that a notebook exports and its exported code, None for a notebook that exports nothing."
    cells = code_of(path)
    name = next((found.group(1) for cell in cells if (found := re.search(r"#\| ?default_exp ([\w.]+)", cell))), None)
    return (name, "\n".join(cell for cell in cells if re.match(r"\s*#\| ?export", cell))) if name else None


MODULES = {found[0]: (path, found[1]) for path in NOTEBOOKS if (found := exported(path))}


def test_layers_have_the_agreed_order():
    assert LAYERS == ["ground", "data", "prompts", "models", "measure", "govern", "serve", "operate", "notebooks", "desk"]


@pytest.mark.parametrize("name", MODULES)
def test_imports_only_look_down(name: str):
    path, source = MODULES[name]
    for imported in imports_of(source):
        if imported.startswith("llmops_nb."):
            layer, noun = imported.split(".")[1], ".".join(imported.split(".")[1:3])
            own = name.split(".")[0]
            assert LAYERS.index(layer) <= LAYERS.index(own), f"{name} imports upward: {imported}"
            if layer == own and noun in MODULES and noun != name:
                assert MODULES[noun][0].name < path.name, f"{path.name} imports from {MODULES[noun][0].name}, which has a higher number"


@pytest.mark.parametrize("name", MODULES)
def test_no_heavy_import_at_module_level(name: str):
    tree = ast.parse(MODULES[name][1])
    top = {alias.name.split(".")[0] for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    top |= {node.module.split(".")[0] for node in tree.body if isinstance(node, ast.ImportFrom) and node.module}
    assert not top & HEAVY, f"{name} imports {top & HEAVY} when it is imported; import inside the functions that need it"
    if name.startswith("ground."):
        assert "pandas" not in top and "numpy" not in top


def test_no_pickle_and_no_remote_code():
    for name, (_, source) in MODULES.items():
        assert not imports_of(source) & {"pickle", "joblib", "dill", "cloudpickle", "shelve"}, name
        assert not re.search(r"trust_remote_code\s*=\s*True|torch\.load\(|(?<!\.)\beval\(|(?<!\.)\bexec\(", source), name


def test_every_file_that_is_made_is_up_to_date():
    done = subprocess.run([sys.executable, "tools/make_files.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_metadata_has_one_source():
    settings = ConfigParser(delimiters=["="], interpolation=None)
    settings.read(ROOT / "settings.ini")
    meta = settings["DEFAULT"]
    assert metadata.version("llmops_nb") == meta["version"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(project) == {"name", "dynamic"} and project["name"] == meta["lib_name"]
    normal = lambda text: re.sub(r"[-_.]+", "-", text.lower())
    required = {normal(re.match(r"[\w.-]+", r).group()) for r in meta["requirements"].split()}
    installed = {normal(re.match(r"[\w.-]+", r).group()) for r in metadata.requires("llmops_nb") if "extra ==" not in r}
    assert required == installed
    pinned = {normal(line.partition("==")[0]) for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    wanted = required | {normal(re.match(r"[\w.-]+", r).group()) for key, value in meta.items() if key.startswith("extra_") for r in value.split()}
    assert wanted <= pinned, f"constraints.txt does not pin {wanted - pinned}; run: make constraints"
    assert "torch==2.13.0" in (ROOT / "constraints.txt").read_text()
    for name in ("jupyterlab", "papermill", "ipywidgets", "pandas", "seaborn", "datasets", "transformers", "peft", "torch", "evaluate", "wandb"):
        assert name in required


def test_the_tests_run_with_the_pinned_versions():
    wrong = []
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        name, mark, version = line.partition("==")
        if mark:
            try:
                found = metadata.version(name).partition("+")[0]
            except metadata.PackageNotFoundError:
                continue
            wrong += [f"{name} {found} is installed, {version} is pinned"] if found != version else []
    assert not wrong, wrong


def test_notebooks_are_committed_clean():
    for path in [*NOTEBOOKS, *TEMPLATES]:
        for cell in json.loads(path.read_text())["cells"]:
            assert not cell.get("outputs") and cell.get("execution_count") is None, f"{path.name} has outputs; run: make export"


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_template_grammar(path: Path):
    from llmops_nb.ground.stage import declaration
    from llmops_nb.notebooks.parameters import parameters_of

    cells = json.loads(path.read_text())["cells"]
    first = "".join(cells[0]["source"])
    assert first.startswith("# ") and "\n> " in first and "?" in first, "a template begins with its title and the question that it answers"
    assert 1 <= len(parameters_of(path)) <= 12 and all(p.help for p in parameters_of(path)), "every parameter has a comment"
    code = "\n".join(code_of(path))
    assert not any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in ast.walk(ast.parse(code))), "what is worth a test is a library function"
    assert code_of(path)[-1].strip().endswith("stage.close()")
    declared = declaration(path)
    assert declared.stage == path.stem.partition("_")[2] and declared.writes + declared.observes
    assert "stage.gate(" in code or "stage.check(" in code or "gates" in code, "a stage ends with gates"
    for name in imports_of(code):
        assert name.split(".")[0] in {"llmops_nb", "pandas", "seaborn", "matplotlib", "IPython"} | set(sys.stdlib_module_names), f"{path.stem} imports {name}"


def test_thirteen_stages():
    assert [path.stem for path in TEMPLATES] == ["01_objectives", "02_explore", "03_prepare", "04_prompts", "05_select", "06_finetune", "07_evaluate", "08_secure", "09_govern", "10_deploy",
                                                 "11_monitor", "12_improve", "13_recover"]


def test_help_loads_nothing_heavy():
    unwanted = {*HEAVY, "pandas", "numpy", "sqlalchemy", "pydantic"}
    code = f"import sys; from llmops_nb.desk.cli import main; main(['--version']); print(sorted(set(sys.modules) & {unwanted!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr


@pytest.mark.parametrize("module", ["llmops_nb.measure.metrics", "llmops_nb.measure.compare", "llmops_nb.data.records", "llmops_nb.govern.policy", "llmops_nb.notebooks.pipeline"])
def test_light_modules_do_not_load_torch(module: str):
    done = subprocess.run([sys.executable, "-c", f"import sys, {module}; print('torch' in sys.modules, 'transformers' in sys.modules)"], capture_output=True, text=True)
    assert done.stdout.split() == ["False", "False"], done.stdout + done.stderr


def test_ruff_finds_nothing():
    done = subprocess.run([sys.executable, "-m", "ruff", "check", "llmops_nb", "tests", "tools", "benchmarks", "setup.py"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_wheel_holds_templates_and_the_built_in_model(tmp_path: Path):
    import zipfile

    done = subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), str(ROOT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    assert sum("notebook_templates/llmops_nb/" in name and name.endswith(".ipynb") for name in names) == 13
    for wanted in ("llmops_nb/models/tiny/model.safetensors", "llmops_nb/models/tiny/tokenizer.json", "llmops_nb/ground/migrations/versions/0001_first.py", "llmops_nb/ground/migrations/env.py"):
        assert wanted in names
    size = next(i.file_size for i in zipfile.ZipFile(next(tmp_path.glob("*.whl"))).infolist() if i.filename.endswith("tiny/model.safetensors"))
    assert size <= 4_000_000
