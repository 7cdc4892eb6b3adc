"""`pipelines.py` is beside the tests, because ranks in processes of their own import it too."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
