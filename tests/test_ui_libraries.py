"""A page that is up before its libraries are imported: whoever comes first, and however many at once, is answered."""

import subprocess
import sys

from test_ui import ROOT

AT_ONCE = """
import sys, threading
from pathlib import Path
from ui.catalogue import Catalogue
from ui.laboratory import settings
from ui.laboratory.views import VIEWS
from ui.run import draw
from ui.settings import Settings
from ui.own_image import samples, settings as own, process

catalogue = Catalogue({"fashion-ddpm": Path("model_cards/fashion-ddpm")})
chosen = own.checked({}, catalogue)
pixels = samples.given(chosen.image, None, catalogue["fashion-ddpm"])
lab = settings.checked({"steps": 3})
assert "torch" not in sys.modules and "diffusers" not in sys.modules
doors = [
    lambda: catalogue.pipeline("fashion-ddpm"),
    lambda: process.look(chosen, catalogue, pixels),
    lambda: VIEWS[lab.view].plots(lab),
    lambda: settings.problems({"distribution": "2-D, ring"}),
    lambda: VIEWS["density"].plots(settings.checked({"steps": 3, "guidance": "classifier"})),
    lambda: list(draw(Settings.checked({"steps": 2, "count": 1}, catalogue), catalogue)),
] * 2
start, failed = threading.Barrier(len(doors)), []
def enter(door):
    start.wait()
    try:
        door()
    except BaseException as error:
        failed.append(repr(error))
threads = [threading.Thread(target=enter, args=(door,)) for door in doors]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(failed)
"""


def test_visitors_of_all_tabs_at_once_are_answered_while_the_libraries_are_imported() -> None:
    found = subprocess.run([sys.executable, "-c", AT_ONCE], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert found.stdout.strip() == "[]", found.stdout + found.stderr
