"""The command line as a whole: light, readable at 80 columns, errors as lines, the exit codes of the design."""

import json
import re
import signal
import subprocess
import sys
import time
from importlib import import_module

import pytest

from vlmzoo.cli.commands import COMMANDS
from vlmzoo.cli.failure import report_failure
from vlmzoo_registry import errors

HEAVY = ("torch", "transformers", "timm", "open_clip", "peft", "accelerate", "numpy")
LIGHT = f"""
import atexit, json, os, sys
from vlmzoo.cli import main
@atexit.register
def tell():
    loaded = [name for name in {HEAVY!r} if name in sys.modules]
    commands = [name for name in sys.modules if name.startswith("vlmzoo.cli.")]
    with open("loaded.json", "w") as file:
        json.dump([loaded, commands], file)
main()
"""


@pytest.mark.parametrize(
    ("arguments", "module"),
    [
        (["--help"], None),
        (["--version"], None),
        ([], None),
        (["list"], "list"),
        (["list", "--json"], "list"),
        (["show", "connectors/mlp"], "show"),
        (["doctor"], "doctor"),
        (["train", "--help"], "train"),
        (["nonsense"], None),
    ],
)
def test_looking_loads_no_framework_and_no_other_command(vlmzoo, arguments, module):
    vlmzoo(*arguments, code=LIGHT)
    loaded, modules = json.loads((vlmzoo.folder / "loaded.json").read_text(encoding="utf-8"))
    assert loaded == []
    assert {name for name in COMMANDS if f"vlmzoo.cli.{name}" in modules} == ({module} if module else set())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_there_and_documented(name):
    command = COMMANDS[name]
    module, attribute = command.function.split(":")
    function = getattr(import_module(module), attribute)
    assert function.__doc__.strip(), f"{command.function} has no docstring, which is its help"
    assert re.fullmatch(r"[A-Z][^\n]{1,62}\.", command.summary), "one sentence that fits a line of the help"
    assert command.load(name).name == name


def test_the_help_shows_every_summary(vlmzoo):
    done = vlmzoo("--help")
    assert done.returncode == 0
    for name, command in COMMANDS.items():
        assert re.search(rf"{name} +{re.escape(command.summary)}", done.stdout)


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["list", "--help"], ["list"], ["show", "connectors/mlp"], ["show", "transformers/vision"], ["doctor"]],
)
def test_nothing_is_wider_than_the_terminal(vlmzoo, arguments):
    done = vlmzoo(*arguments)
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "\x1b" not in done.stdout, "no colours where nobody looks"


def test_the_version(vlmzoo):
    assert re.fullmatch(r"vlmzoo \d+\.\d+\.\d+\n", vlmzoo("--version").stdout)


def test_an_unknown_command_gets_the_nearest(vlmzoo):
    done = vlmzoo("tarin")
    assert done.returncode == 2
    assert "there is no command `tarin`; did you mean `train`?" in done.stderr
    assert done.stdout == ""


def test_an_unknown_option_is_a_usage_error(vlmzoo):
    done = vlmzoo("list", "--jsn")
    assert done.returncode == 2
    assert re.search(r"No such option:? '?--jsn", done.stderr)


class TestErrors:
    @pytest.mark.parametrize(
        ("kind", "code"),
        [
            (errors.ConfigError, 2),
            (errors.AssemblyError, 2),
            (errors.DataError, 3),
            (errors.PluginError, 4),
            (errors.CheckpointError, 5),
            (errors.ResourceError, 6),
        ],
    )
    def test_each_class_has_its_exit_code_and_is_said_in_full(self, kind, code, capsys):
        reasons = ["first [bold]reason[/bold]", "second " + "long " * 40 + "reason"]
        assert report_failure(kind("it `fails`:", reasons)) == code
        captured = capsys.readouterr()
        assert captured.err == f"error: it `fails`:\n  - {reasons[0]}\n  - {reasons[1]}\n"
        assert captured.out == ""

    def test_a_fault_of_the_program_says_so_and_where(self, capsys):
        with pytest.raises(KeyError) as caught:
            {}["key"]
        assert report_failure(caught.value) == 1
        text = capsys.readouterr().err
        assert re.match(r"error: KeyError: 'key' \(test_command_line\.py:\d+\)\n", text)
        assert "this is a fault of the program, not of yours: `vlmzoo --debug ...` shows the traceback" in text

    def test_an_unknown_part(self, vlmzoo):
        done = vlmzoo("show", "connectors/mpl")
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].startswith(
            "error: no component is named `connectors/mpl`; did you mean `connectors/mlp`? (`vlmzoo list` shows all "
        )
        assert "Traceback" not in done.stderr
        assert done.stdout == ""

    @pytest.mark.parametrize("how", ["option", "variable"])
    def test_debug_shows_the_traceback_and_keeps_the_exit_code(self, vlmzoo, how):
        done = vlmzoo("--debug", "show", "zzz") if how == "option" else vlmzoo("show", "zzz", VLMZOO_DEBUG="1")
        assert done.returncode == 2
        assert "Traceback (most recent call last)" in done.stderr
        assert "\nerror: no component is named `zzz`" in done.stderr

    def test_a_command_that_fails_in_its_own_way(self, vlmzoo):
        done = vlmzoo("burst", code=command_in("raise ZeroDivisionError('a')"))
        assert done.returncode == 1
        assert done.stderr.startswith("error: ZeroDivisionError: a (burst.py:2)\n")


def command_in(*body):
    """Code that runs the command line with one more command, `burst`, which does this."""
    text = "\n".join(["def burst():", *(f"    {line}" for line in body), ""])
    return f"""
import sys
from pathlib import Path
from vlmzoo.cli import main
from vlmzoo.cli.commands import COMMANDS
from vlmzoo.cli.lazy import LazyCommand
Path("burst.py").write_text({text!r})
sys.path.insert(0, ".")
COMMANDS["burst"] = LazyCommand("burst:burst", "Test", "Burst.")
main()
"""


class TestSignals:
    WAIT = (
        "import time; from pathlib import Path",
        "try:",
        # Not one long sleep: a signal that comes right before it would be seen only after it.
        "    Path('ready').touch()",
        "    while True: time.sleep(0.01)",
        "finally:",
        "    Path('left').touch()",
    )

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_exit_codes_and_finally_clauses(self, vlmzoo, number, code):
        process = subprocess.Popen(
            [sys.executable, "-c", command_in(*self.WAIT), "burst"],
            env=vlmzoo.environment(),
            cwd=vlmzoo.folder,
            stderr=subprocess.PIPE,
            text=True,
        )
        while not (vlmzoo.folder / "ready").exists():
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.01)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == code
        assert (vlmzoo.folder / "left").exists()
        assert "Traceback" not in stderr

    def test_a_reader_that_leaves_is_no_error(self, vlmzoo):
        process = subprocess.Popen(
            [sys.executable, "-c", "from vlmzoo.cli import main; main()", "list"],
            env=vlmzoo.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        process.stdout.close()
        stderr = process.stderr.read()
        process.wait(timeout=60)
        process.stderr.close()
        assert "Traceback" not in stderr
        assert "BrokenPipe" not in stderr


class TestLocalPlugins:
    def write(self, vlmzoo, manifest, stem):
        file = vlmzoo.folder / f"{stem}.py"
        file.write_text(manifest(f"part-of-{stem.replace('_', '-')}"), encoding="utf-8")
        return file

    def test_files_are_plugins_for_this_call(self, vlmzoo, manifest):
        files = [self.write(vlmzoo, manifest, stem) for stem in ("my_one", "my_two")]
        done = vlmzoo("--plugin", files[0].name, "--plugin", str(files[1]), "list", "--kind", "connector", "--json")
        names = {row["name"]: row for row in json.loads(done.stdout)}
        assert {"my_one/part-of-my-one", "my_two/part-of-my-two", "connectors/linear"} <= set(names)
        assert names["my_one/part-of-my-one"]["distribution"] == "my_one.py"
        assert "my_one" not in vlmzoo("list").stdout

    def test_they_join_those_of_the_environment_and_reach_child_processes(self, vlmzoo, manifest):
        one, two = (self.write(vlmzoo, manifest, stem) for stem in ("my_one", "my_two"))
        code = command_in("import os; print(os.environ['VLMZOO_PLUGINS'])")
        done = vlmzoo("--plugin", two.name, "burst", code=code, VLMZOO_PLUGINS=str(one))
        assert done.stdout.strip().split(":") == [str(one), str(two)]

    def test_a_file_that_is_not_there(self, vlmzoo):
        done = vlmzoo("--plugin", "absent.py", "list")
        assert done.returncode == 2
        assert done.stderr == (
            f"error: these local plugin files cannot be used:\n  - {vlmzoo.folder / 'absent.py'}: there is no such file\n"
        )
