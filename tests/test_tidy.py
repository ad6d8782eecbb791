"""The house as its own documents describe it."""

from __future__ import annotations

import ast
import re
from collections.abc import Container, Iterator
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "python/meteora_rs"
FOLDERS = ("", "rust/cuda/src", "rust/cuda/build", "rust/core/src", "rust/core/src/tiers", "rust/python/src",
           "rust/core/src/peft", "rust/core/src/kernel", "rust/python/src/torch", "python/meteora_rs", "tests",
           *(f"python/meteora_rs/{room}" for room in (
               "ops", "sites", "routing", "files", "attached", "tiers", "serving", "texts", "gates", "gates/fit",
               "gates/train", "handle", "bundles", "evaluate", "importing")))  # fmt: skip


def test_the_architecture_page_names_only_what_exists() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    named = set(re.findall(r"`([\w./]+(?:\.(?:rs|py)|/))`", text))
    assert named
    missing = {name for name in named if not any((ROOT / folder / name).exists() for folder in FOLDERS)}
    assert not missing
    assert all((ROOT / folder).is_dir() for folder in FOLDERS)


def test_every_module_says_what_it_is() -> None:
    sources = [*(ROOT / "python").rglob("*.py"), *(ROOT / "rust").glob("*/src/**/*.rs")]
    silent = [
        str(path.relative_to(ROOT))
        for path in sources
        if not path.read_text().startswith(('"""', "//!")) and path.read_text().strip()
    ]
    assert not silent


def test_no_room_and_no_file_is_imported_by_what_it_imports() -> None:
    """Imports for types alone and those inside functions count as well."""
    modules = {_module(path): path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py"}
    files = {
        name: {each for each in _imported(name, path, modules) if each in modules} for name, path in modules.items()
    }
    rooms: dict[str, set[str]] = {}
    for name, imported in files.items():
        room = name.split(".")[1]
        rooms.setdefault(room, set()).update({each.split(".")[1] for each in imported} - {room})
    for graph in (files, rooms):
        TopologicalSorter(graph).prepare()  # or a CycleError, which names them


def _module(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported(name: str, path: Path, modules: Container[str]) -> Iterator[str]:
    package = name.split(".") if path.stem == "__init__" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            names = [f"{module}.{alias.name}" for alias in node.names]
            yield from (each if each in modules else module for each in names)
