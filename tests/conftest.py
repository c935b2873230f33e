"""What every test needs: the project on the path, wherever pytest was started from, and no network."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors: threads that wait for each other cost more than they do
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
