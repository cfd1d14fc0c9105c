"""timm can be imported whatever torchvision's extension was built for."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_timm_imports_after_declaring():
    code = (
        "from ouro._torchvision_ops import declare_missing_ops\n"
        "ours = declare_missing_ops()\n"
        "assert declare_missing_ops() == ours\n"
        "import timm, torch, torchvision\n"
        # ours exactly where torchvision has none of its own
        "assert ours != torchvision.extension._has_ops()\n"
        "assert torch.ops.torchvision.nms and torch.ops.torchvision.qnms\n"
        # when it comes too late it leaves things as they are
        "assert declare_missing_ops() == ours\n"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
