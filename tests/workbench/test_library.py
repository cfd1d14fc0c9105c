"""The library under the page: whoever comes first imports it, and nobody meets half of a module."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.browsing import ROOT

# notes which thread looks for which module of the library, and dawdles, so that threads would meet
FIRST_EVENTS = """
import json, sys, threading, time

class Slow:
    found = {}
    def find_spec(self, name, path=None, target=None):
        if name.startswith("ouro."):
            self.found.setdefault(name, threading.current_thread().name)
            time.sleep(0.005)

sys.meta_path.insert(0, Slow())
from workbench import engine
from workbench.errors import guarded

before = set(Slow.found)
events = [
    lambda: engine.generator_settings("ouro"),
    lambda: engine.explain_job(model="vim_nano", sample=2, data="scenes", layer=3, window=5, weights="delta"),
    lambda: engine.sites("vim_nano", "lin"),
]
threads = [threading.Thread(target=guarded(event), name=f"event {number}") for number, event in enumerate(events)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(json.dumps({name: by for name, by in Slow.found.items() if name not in before}))
"""


@pytest.mark.full
def test_one_thread_imports_all_of_it():
    ran = subprocess.run([sys.executable, "-c", FIRST_EVENTS], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "Error" not in ran.stderr, ran.stderr
    found = json.loads(ran.stdout)
    assert {"ouro.attention.maps", "ouro.gen.objective", "ouro.jobs.explain"} <= set(found)
    assert len(set(found.values())) == 1
