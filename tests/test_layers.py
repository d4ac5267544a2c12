"""Layers: a package imports only lower ones, and no modules import each other in a circle."""

import ast
from graphlib import TopologicalSorter

from tests.project import ROOT

LAYERS = (  # the lowest first; packages of one layer import nothing of each other
    "core",
    "data processes sandbox code_digest",
    "config judgments",
    "stage tasks method engines",
    "teachers training analysis calibration",
    "plan",
    "report runner",
    "commands stages",
    "api",
)
LAYER = {package: number for number, some in enumerate(LAYERS) for package in some.split()}
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for top in ("pipeline", "stages")
    for path in ROOT.glob(f"{top}/**/*.py")
}


def imports(module):
    """Modules of ours that a module imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(FILES[module].read_bytes())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in FILES else node.module for name in whole]
        yield from (name for name in names if name in FILES)


def package(module):
    return module.removeprefix("pipeline.").split(".")[0]


def test_a_package_imports_only_packages_of_lower_layers():
    for module in FILES:
        for other in imports(module):
            if package(module) != package(other):
                assert LAYER[package(other)] < LAYER[package(module)], f"{module} imports {other}"


def test_no_modules_import_each_other_in_a_circle():
    assert list(
        TopologicalSorter({module: set(imports(module)) for module in FILES}).static_order()
    )


def test_no_folder_has_more_than_12_modules():
    for path in FILES.values():
        found = [x.name for x in path.parent.glob("*.py") if x.name != "__init__.py"]
        assert len(found) <= 12, (path.parent, sorted(found))


LONG_MODULES = {}  # path: why it stays
LONG_FUNCTIONS = {}


def test_no_module_has_more_than_300_lines_and_no_function_more_than_50():
    for module, path in FILES.items():
        text = path.read_text()
        assert text.count("\n") <= 300 or module in LONG_MODULES, module
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                assert length <= 50 or f"{module}.{node.name}" in LONG_FUNCTIONS, (
                    module,
                    node.name,
                )
