"""Write what is made from something else: the library from its notebooks, README.md from nbs/index.ipynb, environment.yml from settings.ini.

    python tools/make_files.py           write them
    python tools/make_files.py --check   say which are out of step, exit 1 if any
"""
import shutil
import sys
import tempfile
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def settings() -> dict[str, str]:
    "The package metadata in settings.ini."
    parser = ConfigParser(delimiters=["="], interpolation=None)
    parser.read(ROOT / "settings.ini", encoding="utf-8")
    return dict(parser["DEFAULT"])


def environment_text() -> str:
    "environment.yml: Python and the package itself; nothing is listed twice."
    meta = settings()
    return ("# Made from settings.ini by tools/make_files.py; change it there.\n"
            f"name: {meta['lib_name']}\nchannels: [conda-forge]\ndependencies:\n  - python >={meta['min_python']},<{meta['max_python']}\n  - pip\n"
            "  - pip:\n      - --constraint constraints.txt\n      - --editable .[all]\n")


def readme_text() -> str:
    "README.md: the index notebook as Markdown, without its import cells."
    import nbformat
    from nbconvert import MarkdownExporter

    notebook = nbformat.read(ROOT / "nbs" / "index.ipynb", as_version=4)
    notebook.cells = [cell for cell in notebook.cells if not cell.source.startswith("#| hide")]
    text, _ = MarkdownExporter().from_notebook_node(notebook)
    return "<!-- Made from nbs/index.ipynb by tools/make_files.py; change it there. -->\n\n" + text.strip() + "\n"


def export_to(folder: Path) -> dict[str, str]:
    "The modules that the notebooks export, by path below the package."
    from nbdev.export import nb_export

    for path in sorted((ROOT / "nbs").glob("[0-9]*/*.ipynb")):
        if "default_exp" in path.read_text(encoding="utf-8"):
            nb_export(str(path), lib_path=str(folder))
    return {path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8") for path in folder.rglob("*.py")}


def exported() -> dict[Path, str]:
    "Every exported module's file with the text that its notebook gives it."
    with tempfile.TemporaryDirectory(dir=ROOT) as folder:
        library = Path(folder) / "llmops_nb"
        shutil.copytree(ROOT / "llmops_nb", library, ignore=shutil.ignore_patterns("*.safetensors", "__pycache__"))
        texts = export_to(library)
    return {ROOT / "llmops_nb" / name: text.replace(f"../../{Path(folder).name}/", "").replace("../../../nbs", "../../nbs") for name, text in texts.items()}


def wanted() -> dict[Path, str]:
    "Every made file with the text it should have."
    return {**exported(), ROOT / "environment.yml": environment_text(), ROOT / "README.md": readme_text()}


def main() -> int:
    "Write or check."
    stale = {path: text for path, text in wanted().items() if not path.exists() or path.read_text(encoding="utf-8") != text}
    if "--check" in sys.argv:
        for path in sorted(stale):
            print(f"{path.relative_to(ROOT)} is out of step with its source; run: make export")
        return int(bool(stale))
    for path, text in stale.items():
        path.write_text(text, encoding="utf-8")
        print(f"wrote {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
