"""The demo: one file per tab, one row of fields.py per setting, and `build_demo`, which works for any pipeline here."""

from .catalogue import Catalogue
from .demo import build_demo
from .style import LAUNCH

__all__ = ["LAUNCH", "Catalogue", "build_demo"]
