"""Imports go down only. The layers are read off the source, so that nothing has to be imported to be judged."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

BELOW = {
    "wm_kernels": set(),
    "wm_vec.compat": set(),
    "wm_vec.torch_settings": set(),
    "wm_vec.spaces": set(),
    "wm_vec.plain": set(),
    "wm_vec.canvas": set(),
    "wm_vec.schema": {"wm_kernels", "wm_vec.canvas"},
    "wm_vec.core": {"wm_kernels"},
    "wm_vec.model": {"wm_kernels", "wm_vec.canvas"},
    "wm_vec.adapters": {"wm_vec.canvas", "wm_vec.core", "wm_vec.model", "wm_kernels"},
    "wm_vec.settings": {"wm_vec.core", "wm_vec.adapters"},
    "wm_vec.perspectives": {"wm_vec.canvas", "wm_vec.core", "wm_vec.settings"},
    "wm_vec.agents": {"wm_vec.canvas", "wm_vec.core", "wm_vec.settings", "wm_vec.perspectives"},
    "wm_vec.train": {"wm_vec.canvas", "wm_vec.core", "wm_vec.model"},
    "wm_vec.render": {"wm_vec.canvas", "wm_vec.schema", "wm_vec.train"},
    "wm_vec.envs": {"wm_vec.core", "wm_vec.adapters", "wm_vec.render"},
    "wm_vec.plan": {"wm_vec.core", "wm_vec.envs"},
}
"""Layer -> the layers it may import besides itself. What is not named here composes: `world_model`, `cli`."""

EVERYWHERE = {"wm_vec.compat", "wm_vec.spaces", "wm_vec.plain", "wm_vec.torch_settings"}
"""What every layer of wm_vec may import: private names and settings of other libraries, the walk over Gymnasium's
spaces, and plain numbers."""
COMPOSE = {
    "wm_vec",
    "wm_vec.__main__",
    "wm_vec.world_model",
    "wm_vec.general",
    "wm_vec.world_envs",
    "wm_vec.environments",
    "wm_vec.canvas_states",
    "wm_vec.economy_env",
    "wm_vec.factory",
    "wm_vec.workers",
    "wm_vec.cli",
}
SUPPORT = {
    "agent_spaces",
    "direct",
    "view",
    "numpy_io",
    "info",
    "fork_warning",
    "checker",
    "checks",
    "registration",
    "replay",
    "reset_options",
    "sb3_spaces",
    "transfer",
}
"""Parts of `wm_vec.envs` that are no faces, and that faces may share."""
MAKERS = {"wm_vec.envs", "wm_vec.envs.factory"}
"""What may import several faces: it makes them."""
EXCEPTIONS = {
    ("wm_vec.envs.registration", "wm_vec.world_model"),  # entry points that Gymnasium calls by name
    ("wm_vec.envs.vector", "wm_vec.envs.torchrl"),  # `to_torchrl`, when it is called
}
"""Imports against the rules, each with its reason."""


def module_of(path: Path) -> str:
    """``wm_vec/core/engine.py`` -> ``wm_vec.core.engine``; a package goes by its own name."""
    start = ROOT / "kernels" if "wm_kernels" in path.parts else ROOT
    parts = list(path.relative_to(start).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(source: str, module: str, is_package: bool = False) -> set[str]:
    """Names of our own modules that a source imports, wherever in it, by whatever form of import."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                around = module.split(".")[: len(module.split(".")) - node.level + is_package]
                base = ".".join([*around, *([base] if base else [])])
            # `from wm_vec import core` imports a module as well as `from wm_vec.core import Engine`.
            found |= {f"{base}.{alias.name}" for alias in node.names} if base == "wm_vec" else {base}
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in (
            "import_module",
            "__import__",
        ):
            found |= {a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)}
    return {name for name in found if name.split(".")[0] in ("wm_vec", "wm_kernels")}


def layer_of(module: str) -> str:
    """``wm_vec.core.engine`` -> ``wm_vec.core``."""
    return "wm_kernels" if module.startswith("wm_kernels") else ".".join(module.split(".")[:2])


def violations(module: str, imported: set[str]) -> list[str]:
    """What is wrong with a module's imports."""
    layer, wrong = layer_of(module), []
    if layer in COMPOSE:
        return ["only cli may import cli"] if layer == "wm_vec.world_model" and "wm_vec.cli" in imported else []
    if layer not in BELOW:
        return [f"{module}: no layer is called {layer}; name what it may import in tests/test_layers.py"]
    for name in sorted(imported):
        other = layer_of(name)
        if other != layer and other not in BELOW[layer] | EVERYWHERE and (module, name) not in EXCEPTIONS:
            wrong.append(f"{module} imports {name}: {layer} may import {sorted(BELOW[layer]) or 'nothing of ours'}")
        one, two = (n.removeprefix("wm_vec.envs.").split(".")[0] for n in (module, name))
        shared = two in SUPPORT or module in MAKERS or (module, name) in EXCEPTIONS
        if layer == other == "wm_vec.envs" and one != two and not shared:
            wrong.append(f"{module} imports {name}: faces never import each other")
    return wrong


def sources() -> list[Path]:
    return sorted([*(ROOT / "wm_vec").rglob("*.py"), *(ROOT / "kernels" / "wm_kernels").rglob("*.py")])


def test_imports_go_down_only():
    wrong = []
    for path in sources():
        module = module_of(path)
        wrong += violations(module, imports_of(path.read_text(), module, path.name == "__init__.py"))
    assert not wrong, "\n".join(wrong)


def test_the_layers_themselves_have_no_cycle():
    order: list[str] = []
    while len(order) < len(BELOW):
        free = [layer for layer in BELOW if layer not in order and BELOW[layer] <= set(order)]
        assert free, f"a cycle among {sorted(set(BELOW) - set(order))}"
        order += free


def test_all_of_the_source_was_read():
    modules = {module_of(path) for path in sources()}
    assert {"wm_vec", "wm_vec.core.engine", "wm_kernels.predict.op", "wm_vec.world_model"} <= modules
    assert len(modules) > 50


@pytest.mark.parametrize(
    ("module", "source", "fault"),
    [
        ("wm_vec.core.engine", "from wm_vec.model import CanvasModel", "wm_vec.core may import"),
        ("wm_vec.core.engine", "from wm_vec.canvas import Field", "wm_vec.core may import"),
        ("wm_vec.core.engine", "from wm_vec import model", "wm_vec.core may import"),
        ("wm_vec.core.engine", "def f():\n    import wm_vec.envs.vector as v", "wm_vec.core may import"),
        ("wm_vec.core.engine", "from ..model import CanvasModel", "wm_vec.core may import"),
        ("wm_vec.core.engine", "from .. import world_model", "wm_vec.core may import"),
        ("wm_vec.core.engine", "importlib.import_module('wm_vec.train')", "wm_vec.core may import"),
        ("wm_vec.model.codec", "from wm_vec.core import Engine", "wm_vec.model may import"),
        ("wm_vec.model.codec", "if TYPE_CHECKING:\n    from wm_vec.envs import WorldModelEnv", "wm_vec.model may"),
        ("wm_vec.canvas.field", "import wm_kernels", "nothing of ours"),
        ("wm_kernels.dispatch", "from wm_vec.canvas import Field", "nothing of ours"),
        ("wm_vec.train.loop", "from wm_vec.envs import WorldModelVectorEnv", "wm_vec.train may import"),
        ("wm_vec.train.loop", "from wm_vec.world_model import WorldModel", "wm_vec.train may import"),
        ("wm_vec.adapters.canvas", "from wm_vec.train import TrainConfig", "wm_vec.adapters may import"),
        ("wm_vec.envs.scalar", "from wm_vec.world_model import WorldModel", "wm_vec.envs may import"),
        ("wm_vec.envs.scalar", "from wm_vec.envs.vector import WorldModelVectorEnv", "faces never import each other"),
        ("wm_vec.envs.scalar", "from .vector import WorldModelVectorEnv", "faces never import each other"),
        ("wm_vec.envs.checks.driver", "from wm_vec.envs.vector import X", "faces never import each other"),
        ("wm_vec.plan.planners", "from wm_vec.world_model import WorldModel", "wm_vec.plan may import"),
        ("wm_vec.envs.torchrl.env", "from wm_vec.plan import CEM", "wm_vec.envs may import"),
        ("wm_vec.perspectives", "from wm_vec.model import CanvasModel", "wm_vec.perspectives may import"),
        ("wm_vec.utils", "import os", "no layer is called wm_vec.utils"),
        ("wm_vec.world_model", "import wm_vec.cli", "only cli may import cli"),
    ],
)
def test_planted_faults_are_found(module, source, fault):
    assert any(fault in wrong for wrong in violations(module, imports_of(source, module)))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("wm_vec.core.engine", "from wm_kernels import finish_step\nfrom .rng import CounterRNG\nimport torch"),
        ("wm_vec.model.codec", "from wm_vec.canvas import BoundSchema"),
        ("wm_vec.envs.vector", "from wm_vec.core import Engine\nfrom wm_vec.envs.info import LazyInfo"),
        ("wm_vec.envs.checker", "from wm_vec.envs.checks.driver import Driver"),
        ("wm_vec.envs.registration", "from wm_vec.world_model import WorldModel"),
        ("wm_vec.cli.train", "from wm_vec.world_model import WorldModel\nfrom wm_vec.render import frames"),
    ],
)
def test_what_is_allowed_passes(module, source):
    assert violations(module, imports_of(source, module)) == []


def test_importing_the_package_costs_no_torch():
    """Gymnasium imports it to register the bundled worlds; that must be free."""
    code = "import sys, wm_vec; print([m for m in ('torch', 'tensordict', 'matplotlib') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
