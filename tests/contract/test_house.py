"""The rules of the house: who may import whom, and how tasks are declared."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", files("datlstm"), ids=str)
def test_the_library_knows_nothing_of_prefect(path: Path) -> None:
    assert not [name for name in imports(path) if name.split(".")[0] in ("prefect", "tasks")]
    if path.name != "cli.py":
        assert not [name for name in imports(path) if name.split(".")[0] == "flows"]


@pytest.mark.parametrize("path", files("flows"), ids=str)
def test_flows_import_only_tasks_settings_and_the_clock(path: Path) -> None:
    allowed = ("datlstm.settings", "datlstm.clock")
    assert not [name for name in imports(path) if name.split(".")[0] == "datlstm" and name not in allowed]


@pytest.mark.parametrize("path", files("tasks"), ids=str)
def test_every_task_is_declared_through_the_projects_own_decorator(path: Path) -> None:
    if path.name == "step.py":
        return
    functions = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
    names = [ast.unparse(decorator) for function in functions for decorator in function.decorator_list]
    assert all(name.startswith("step(") for name in names)
    assert "prefect.task" not in path.read_text()


@pytest.mark.parametrize("path", files("flows"), ids=str)
def test_what_prefect_keeps_of_a_flow_is_no_pickle(path: Path) -> None:
    functions = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
    declared = [ast.unparse(decorator) for function in functions for decorator in function.decorator_list]
    assert all("result_serializer='json'" in name for name in declared if name.startswith("flow"))


def test_a_night_imports_nothing_that_only_a_training_needs() -> None:
    """These take longer to import than all the rest, in every run of a flow."""
    code = "import sys, flows.nightly; print({'lightning', 'torchmetrics', 'torch._dynamo'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


def test_the_clock_is_read_in_one_place() -> None:
    readers = [
        path.relative_to(ROOT).as_posix()
        for folder in ("datlstm", "flows", "tasks")
        for path in files(folder)
        if "datetime.now" in path.read_text() or "date.today" in path.read_text()
    ]
    assert readers == ["datlstm/clock.py"]


def test_nothing_unpickles_and_checkpoints_load_weights_only() -> None:
    for folder in ("datlstm", "flows", "tasks", "benchmarks"):
        for path in files(folder):
            text = path.read_text()
            assert "pickle" not in text, path
            loads = re.findall(r"(?<!safetensors\.)torch\.load\(", text)
            assert len(loads) == len(re.findall(r"torch\.load\([^)]*[^_]weights_only=True", text)), path
