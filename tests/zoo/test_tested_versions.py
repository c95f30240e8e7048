"""A library outside of the tested versions is named by the doctor's findings and by the errors that come out of it."""

import importlib.util
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

import vlmzoo
from vlmzoo import tested_versions
from vlmzoo.cli.doctor import examine
from vlmzoo.cli.failure import report_failure
from vlmzoo.tested_versions import untested_versions, version_notes, with_version_notes
from vlmzoo_registry.errors import PluginError

LIBRARY = """
def forward(hidden, cache=None):
    return called_back() if hidden is None else hidden.shape

def called_back():
    return forward(1, past_key_values=2)
"""
NOTE = (
    "some-library 5.25.1 is not among the versions that vlmzoo is tested with (>=5.17,<5.25): "
    'pip install "some-library>=5.17,<5.25"'
)


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A library of version 5.25.1 where vlmzoo is tested with those below 5.25."""
    (tmp_path / "somelib.py").write_text(LIBRARY, encoding="utf-8")
    info = tmp_path / "some_library-5.25.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-library\nVersion: 5.25.1\n", encoding="utf-8")
    (info / "top_level.txt").write_text("somelib\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    ask_for(monkeypatch, "some-library<5.25,>=5.17", "pluggy>=1", "not-installed-at-all>=1", 'pytest<1; extra == "dev"')
    spec = importlib.util.spec_from_file_location("somelib", tmp_path / "somelib.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def ask_for(monkeypatch: pytest.MonkeyPatch, *requirements: str) -> None:
    monkeypatch.setattr(tested_versions, "requires", {"vlmzoo": list(requirements)}.get)


def raised(call: Callable[[], object]) -> Exception:
    try:
        call()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def missing_name(library: ModuleType) -> object:
    return library.no_such_function


def test_the_installed_version_is_compared_with_the_requirement(library: ModuleType) -> None:
    assert [str(found) for found in untested_versions()] == [NOTE]


def test_what_is_installed_here_is_read_from_the_metadata_of_vlmzoo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tested_versions, "version", lambda name: "999.0" if name == "transformers" else "0.0.1")
    found = {library.name: library for library in untested_versions()}
    assert {"torch", "transformers", "timm", "peft", "pydantic"} <= set(found)
    assert found["transformers"].tested.startswith(">=") and found["transformers"].remedy.startswith(
        'pip install "transformers>='
    )


@pytest.mark.parametrize("version", ["5.25.0", "5.25.0.dev0", "5.16.9", "6.0"])
def test_versions_out_of_range(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    ask_for(monkeypatch, "pluggy>=5.17,<5.25")
    monkeypatch.setattr(tested_versions, "version", lambda name: version)
    assert [found.installed for found in untested_versions()] == [version]


@pytest.mark.parametrize("version", ["5.17.0", "5.24.0.post1", "5.24.3+cpu"])
def test_versions_in_range(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    ask_for(monkeypatch, "pluggy>=5.17,<5.25")
    monkeypatch.setattr(tested_versions, "version", lambda name: version)
    assert untested_versions() == []


def test_an_error_raised_in_the_library_is_noted(library: ModuleType) -> None:
    for call in (lambda: library.forward(None), lambda: library.forward(1)):
        error = raised(call)
        assert isinstance(error, TypeError | AttributeError)
        assert version_notes(error) == [NOTE]


def test_an_error_at_the_call_of_the_library_is_noted(library: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call with an argument that is gone is refused before the library has a frame."""
    monkeypatch.setitem(globals(), "forward_of_the_library", library.forward)
    error = raised(lambda: forward_of_the_library(1, past_key_values=2))
    assert error.__traceback__ is not None
    assert version_notes(error) == [NOTE]


def test_a_missing_attribute_or_module_of_the_library_is_noted(library: ModuleType) -> None:
    assert version_notes(raised(lambda: missing_name(library))) == [NOTE]
    assert version_notes(raised(lambda: __import__("somelib.no_such_module"))) == [NOTE]
    assert version_notes(raised(lambda: exec("from somelib import no_such_name"))) == [NOTE]


def test_what_caused_an_error_is_looked_at(library: ModuleType) -> None:
    def wrapped() -> None:
        try:
            library.forward(None)
        except TypeError as error:
            raise PluginError("the part cannot be built") from error

    assert version_notes(raised(wrapped)) == [NOTE]


def test_other_errors_have_no_note(library: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def elsewhere() -> None:
        raise TypeError("ours")

    def value() -> None:
        raise ValueError(library.called_back.__name__)

    assert version_notes(raised(elsewhere)) == []
    assert version_notes(raised(value)) == []
    ask_for(monkeypatch, "some-library>=5.17,<6")
    assert version_notes(raised(lambda: library.forward(None))) == []


def test_the_command_line_names_the_version_first(library: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert report_failure(raised(lambda: library.forward(None))) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("error: TypeError: forward() got an unexpected keyword argument 'past_key_values' (somelib.py:")
    assert lines[1:] == [
        f"  - {NOTE}",
        "  - if that does not help, this is a fault of the program, not of yours: `vlmzoo --debug ...` shows the traceback",
    ]


def test_the_command_line_names_the_version_behind_the_reasons(library: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    failure = PluginError("the part cannot be built", ["reason"])
    failure.__cause__ = raised(lambda: library.forward(None))
    assert report_failure(failure) == 4
    assert capsys.readouterr().err.splitlines() == ["error: the part cannot be built", "  - reason", f"  - {NOTE}"]


def test_public_functions_note_versions_once(library: ModuleType) -> None:
    @with_version_notes
    @with_version_notes
    def public() -> None:
        library.forward(None)

    assert raised(public).__notes__ == [NOTE]


def test_every_public_function_notes_versions(library: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault is planted in place of the module's own function, before the name is looked up for the first time."""
    for name, module in vlmzoo._LAZY.items():
        monkeypatch.setattr(importlib.import_module(module), name, lambda **_: library.forward(None))
        # Looking the name up puts it into the module; what was there before comes back.
        monkeypatch.setitem(vars(vlmzoo), name, None)
        assert raised(vlmzoo.__getattr__(name)).__notes__ == [NOTE], name


def test_public_functions_can_be_pickled() -> None:
    for name in vlmzoo.__all__:
        assert pickle.loads(pickle.dumps(getattr(vlmzoo, name))) is getattr(vlmzoo, name)


def test_the_doctor_lists_it(library: ModuleType) -> None:
    assert examine()["untested"] == [
        {
            "name": "some-library",
            "installed": "5.25.1",
            "tested": ">=5.17,<5.25",
            "remedy": 'pip install "some-library>=5.17,<5.25"',
        }
    ]


@pytest.mark.parametrize("strict", [False, True])
def test_the_doctor_prints_it(tmp_path: Path, strict: bool) -> None:
    """In a process of its own, with metadata of vlmzoo that asks for another pluggy."""
    program = (
        "from vlmzoo import tested_versions\n"
        "tested_versions.requires = {'vlmzoo': ['pluggy>=1000,<1001']}.get\n"
        "from vlmzoo.cli import main\n"
        "main()\n"
    )
    environment = os.environ | {"COLUMNS": "200", "VLMZOO_CACHE": str(tmp_path), "VLMZOO_STRICT": str(int(strict))}
    done = subprocess.run(
        [sys.executable, "-c", program, "doctor"], capture_output=True, text=True, env=environment, check=False
    )
    lines = done.stdout.splitlines()
    assert lines[1].startswith("pluggy 1.") and lines[1].endswith(
        "is not among the versions that vlmzoo is tested with (>=1000,<1001)"
    )
    assert lines[2] == 'remedy: pip install "pluggy>=1000,<1001"'
    assert lines[-1].endswith(", 1 library in an untested version.")
    assert done.returncode == (4 if strict else 0)
    assert done.stderr.endswith(" notes and 1 library in an untested version\n") if strict else done.stderr == ""
