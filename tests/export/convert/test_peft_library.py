"""Tests of the import of PEFT, which also imports bitsandbytes.

On some processors, bitsandbytes downloads kernels and runs them.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from vidrisk.export.convert.peft_library import import_bitsandbytes

# A stand-in for the library kernels that notes a download. It takes the other names from the installed one, if any.
KERNELS = """import importlib, importlib.util, sys
sys.path.remove("")
stand_in = sys.modules.pop("kernels")
library = importlib.import_module("kernels") if importlib.util.find_spec("kernels") else stand_in
sys.modules["kernels"] = library

def get_kernel(*_, **__):
    open("fetched", "w").close()
    raise OSError

library.get_kernel = get_kernel
"""


@pytest.mark.parametrize("is_there", [True, False])
def test_nothing_is_fetched_and_nothing_is_said(tmp_path: Path, is_there: bool) -> None:
    pytest.importorskip("bitsandbytes")
    if is_there:
        (tmp_path / "kernels.py").write_text(KERNELS)
    code = (
        "import sys\n"
        "from vidrisk.export.convert.peft_library import require_peft\n"
        "print(require_peft('train').__name__, 'bitsandbytes' in sys.modules)"
    )
    end = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (end.stdout, end.stderr) == ("peft True\n", "") and not (tmp_path / "fetched").exists()


def test_kernels_that_are_there_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("bitsandbytes")
    monkeypatch.setitem(sys.modules, "kernels", sys)
    import_bitsandbytes()
    assert sys.modules["kernels"] is sys
