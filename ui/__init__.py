"""The demo: one file per tab, and `build_demo`, which works for any pipeline here."""

from .demo import build_demo
from .models import Catalogue
from .style import LAUNCH

__all__ = ["LAUNCH", "Catalogue", "build_demo"]
