"""Where the bytecode of all that the tests import is kept. Import this module before what takes long to compile."""

import os
import sys
from pathlib import Path

# Not beside tabloop's source: a bake copies that folder while another process may write to it.
sys.pycache_prefix = os.environ["PYTHONPYCACHEPREFIX"] = str(Path(__file__).parents[1] / ".cache/bytecode")
# Where the environment forbids bytecode, each process would compile pytest, pandas and DuckDB anew.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
