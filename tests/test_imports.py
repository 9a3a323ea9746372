"""The import rule: studies -> cluster -> denoise_core, and denoise_core runs without Ray, Optuna, Plotly, PyArrow."""

from __future__ import annotations

import subprocess
import sys

BANNED = ("ray", "optuna", "plotly", "pyarrow", "cluster", "studies")


def test_denoise_core_imports_nothing_of_the_cluster() -> None:
    program = f"""
import importlib, pkgutil, sys
import denoise_core
for module in pkgutil.walk_packages(denoise_core.__path__, "denoise_core."):
    importlib.import_module(module.name)
found = sorted(set({BANNED!r}) & {{name.partition(".")[0] for name in sys.modules}})
sys.exit(", ".join(found) or None)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_training_is_checked_without_a_compiler() -> None:
    """Which PyTorch would load to draw weights that nobody needs: seconds before a study begins."""
    program = """
import sys
from denoise_core.method import methods, outline
for name, method in methods().items():
    outline(name, method.recipes["gpu"].config, 1)
sys.exit("torch._dynamo" in sys.modules or "torch._inductor" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_a_stored_study_is_reported_without_importing_ray() -> None:
    program = "import sys, cluster.runner, cluster.report.collect; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_a_run_starts_without_pytorch() -> None:
    program = "import sys, cluster.execution.launch; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
