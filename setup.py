"Package metadata, all of it read from settings.ini."
from configparser import ConfigParser
from pathlib import Path

from setuptools import Distribution, find_namespace_packages, setup

settings = ConfigParser(delimiters=["="], interpolation=None)
settings.read("settings.ini", encoding="utf-8")
meta = settings["DEFAULT"]
extras = {key.removeprefix("extra_"): value.split() for key, value in meta.items() if key.startswith("extra_")}
extras["all"] = sorted({requirement for values in extras.values() for requirement in values})



class WithKernel(Distribution):
    "Brings the kernel along in editable installs too; the templates are then the checkout's own."

    def has_data(self) -> bool:  # what an editable install asks before it copies data files, and what setuptools forgot to define
        self.data_files = [(folder, files) for folder, files in self.data_files if "kernels" in folder]
        return True


setup(
    distclass=WithKernel,
    name=meta["lib_name"],
    version=meta["version"],
    description=meta["description"],
    keywords=meta["keywords"],
    author=meta["author"],
    license=meta["license"],
    long_description=Path("README.md").read_text(encoding="utf-8") if Path("README.md").exists() else meta["description"],
    long_description_content_type="text/markdown",
    python_requires=f">={meta['min_python']},<{meta['max_python']}",
    install_requires=meta["requirements"].split(),
    extras_require=extras,
    packages=find_namespace_packages(include=["llmops_nb", "llmops_nb.*"]),
    package_data={"llmops_nb": ["**/*"]},
    data_files=[("share/jupyter/notebook_templates/llmops_nb", sorted(str(path) for path in Path("templates").glob("*.ipynb"))),
                ("share/jupyter/kernels/llmops", ["llmops_nb/notebooks/kernels/llmops/kernel.json"])],
    entry_points={"console_scripts": meta["console_scripts"].split(), "jupyter_client.kernel_provisioners": meta["kernel_provisioners"].split()},
)
