"""Two processes save the same steps, one of them asked to end or the clock of the first: the weights are the same."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from resumable import assert_same, outcome, recipe, write_rows

SCRIPT = """
import json, os, signal, sys
import torch
torch.set_num_threads(1)
from vlmzoo.training import fit as fitting
from vlmzoo.training.train import train

class Stopped(BaseException):
    pass

def stop(number, frame):
    raise Stopped(number)

recipe, root = json.loads(open(sys.argv[1]).read()), sys.argv[2]
train(recipe, output=root + "/straight")

signal.signal(signal.SIGTERM, stop)
advance = fitting.StepProgress.advance
at = {"align": 3, "instruct": 1}

def signalled(self, loss, seconds):
    advance(self, loss, seconds)
    if int(os.environ["RANK"]) == 1 and at.get(self._name) == self._done:
        del at[self._name]
        os.kill(os.getpid(), signal.SIGTERM)

fitting.StepProgress.advance = signalled
notes = []
for _ in range(2):
    try:
        train(recipe, output=root + "/stopped")
    except Stopped as stopped:
        notes += [[int(stopped.args[0]), *stopped.__notes__]]
train(recipe, output=root + "/stopped")

saved, saves = fitting.StepProgress.saved, []

def noted(self):
    saves.append([self._name, self._done])
    saved(self)

fitting.StepProgress.saved = noted
due_after = (2, 3)[int(os.environ["RANK"])]  # by the clocks of the two, of which the second is not asked
fitting.SaveSchedule.due = lambda self, done: done == due_after
train(recipe, output=root + "/by_clock")
notes.append(saves)
open(f"{root}/notes.{os.environ['RANK']}", "w").write(json.dumps(notes))
"""


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_and_nothing_is_lost(tmp_path: Path) -> None:
    """With dropout, of which each process draws its own."""
    rows = write_rows(tmp_path)
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "recipe.json").write_text(json.dumps(recipe(rows)))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
            *(str(tmp_path / "script.py"), str(tmp_path / "recipe.json"), str(tmp_path)),
        ],
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    notes = [json.loads((tmp_path / f"notes.{rank}").read_text()) for rank in (0, 1)]
    saved = [["align", 2], ["align", 5], ["instruct", 2], ["instruct", 5]]
    assert [said.pop() for said in notes] == [saved, saved]
    for said in notes:
        assert said == [
            [15, "stage `align` is saved after step 3 of 5: the same command goes on from there"],
            [15, "stage `instruct` is saved after step 1 of 5: the same command goes on from there"],
        ]
    straight, timed = outcome(tmp_path / "straight"), outcome(tmp_path / "by_clock")
    assert_same(outcome(tmp_path / "stopped"), straight)
    tensors = [name for name in straight if name.endswith(".safetensors")]
    assert all(straight[name] == timed[name] for name in tensors)
