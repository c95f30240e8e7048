"""Private, deprecated and version-dependent names of other libraries are imported by `vlmzoo_registry.compat` alone.

A new release of a library is then met in one place. The rules are held on syntax trees, and for names that a class of ours
takes over from a class of theirs, on the classes.
"""

import ast
import importlib
import importlib.util
import pkgutil
import re
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(file for root in ("zoo", "registry", "plugins") for file in (ROOT / root).rglob("*.py"))
COMPAT = ROOT / "registry" / "vlmzoo_registry" / "compat"
PACKAGES = sorted(path.name for root in ("zoo", "registry", "plugins") for path in (ROOT / root).iterdir() if path.is_dir())

# Modules that the libraries' own documentation tells users to import from; every other module of theirs is a deep import.
_TOKENIZERS = (".decoders", ".models", ".pre_tokenizers", ".processors", ".trainers")
DOCUMENTED = {
    "accelerate": {"accelerate", "accelerate.utils"},
    "huggingface_hub": {"huggingface_hub", "huggingface_hub.errors", "huggingface_hub.constants"},
    "open_clip": {"open_clip"},
    "peft": {"peft"},
    "safetensors": {"safetensors", "safetensors.torch"},
    "timm": {"timm", "timm.data", "timm.models"},
    "tokenizers": {f"tokenizers{inside}" for inside in ("", *_TOKENIZERS)},
    "torch": {
        "torch",
        *(f"torch.{name}" for name in ("accelerator", "autograd", "cuda", "distributed", "nn", "optim", "random", "utils")),
        *("torch.autograd.graph", "torch.nn.functional", "torch.utils.checkpoint", "torch.utils.data"),
    },
    "torchvision": {"torchvision"},
    "transformers": {"transformers"},
}
# Private names of the standard library; it is none of the libraries that this rule is about.
STANDARD = {"sys._getframe", "os._exit", "distribution._path"}


def refused(source: str) -> list[str]:
    """Every line of a module that reaches behind what a library documents."""
    tree = ast.parse(source)
    own = _defined(tree)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node, f"import {alias.name}") for alias in node.names if _is_deep(alias.name)]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            library = node.module.split(".")[0] in DOCUMENTED
            found += [
                (node, f"from {node.module} import {alias.name}")
                for alias in node.names
                if _is_deep(node.module)
                or (library and (alias.name.startswith("_") or _is_submodule(f"{node.module}.{alias.name}")))
            ]
        elif isinstance(node, ast.Attribute) and _is_private(node.attr) and node.attr not in own:
            found += [(node, ast.unparse(node))] if ast.unparse(node) not in STANDARD else []
        elif isinstance(node, ast.Attribute) and _is_deep(_dotted(node)):
            found.append((node, _dotted(node)))
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr", "setattr", "delattr"):
            named = node.args[1] if len(node.args) > 1 else None
            if isinstance(named, ast.Constant) and _is_private(str(named.value)) and named.value not in own:
                found.append((node, ast.unparse(node)))
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            named = node.args[0]
            written = isinstance(named, ast.Constant) and _is_deep(str(named.value))
            put_together = isinstance(named, ast.JoinedStr) and ast.unparse(named)[2:].split(".")[0] in DOCUMENTED
            found += [(node, ast.unparse(node))] if written or put_together else []
    return [f"line {node.lineno}: {what}" for node, what in sorted(found, key=lambda pair: pair[0].lineno)]


def _defined(tree: ast.Module) -> set[str]:
    """The names that a module gives to functions, classes, variables and attributes of its own."""
    defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}
    defined |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) in ("self", "cls"):
            defined.add(node.attr)
    return defined


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


def _is_deep(module: str) -> bool:
    """Whether a dotted name is, or lies in, a module that its library does not document."""
    library = module.split(".")[0]
    if library not in DOCUMENTED or module in DOCUMENTED[library]:
        return False
    return any(_is_submodule(".".join(module.split(".")[:end])) for end in range(2, module.count(".") + 2))


def _is_submodule(module: str) -> bool:
    """Whether a dotted name of a library is an undocumented module of it, by the files that are installed."""
    library, *inside = module.split(".")
    if library not in DOCUMENTED or module in DOCUMENTED[library] or not inside:
        return False
    found = importlib.util.find_spec(library)
    assert found is not None
    assert found.submodule_search_locations is not None
    place = Path(next(iter(found.submodule_search_locations))).joinpath(*inside)
    return place.is_dir() or place.with_suffix(".py").is_file()


def _dotted(node: ast.Attribute) -> str:
    inside: ast.expr = node
    while isinstance(inside, ast.Attribute):
        inside = inside.value
    return ast.unparse(node) if isinstance(inside, ast.Name) else ""


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_only_compat_reaches_behind_what_a_library_documents(file: Path) -> None:
    if not file.is_relative_to(COMPAT):
        assert refused(file.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("planted", "found"),
    [
        ("from transformers.cache_utils import CacheLayerMixin", "from transformers.cache_utils import CacheLayerMixin"),
        ("from transformers import cache_utils", "from transformers import cache_utils"),
        ("import transformers.masking_utils as masks", "import transformers.masking_utils"),
        ("from torch import _dynamo", "from torch import _dynamo"),
        ("from timm.models.eva import Eva", "from timm.models.eva import Eva"),
        ("import transformers\ntransformers.modeling_utils.ALL_ATTENTION_FUNCTIONS", "transformers.modeling_utils"),
        ("import torch\ntorch.nn.modules.module._global()", "torch.nn.modules.module._global"),
        ("def run(model):\n    return model.config._attn_implementation", "model.config._attn_implementation"),
        ("def run(model):\n    model._no_split_modules = []", "model._no_split_modules"),
        ("def run(model):\n    return getattr(model, '_supports_sdpa')", "getattr(model, '_supports_sdpa')"),
        ("import importlib\nimportlib.import_module('peft.tuners.lora')", "importlib.import_module('peft.tuners.lora')"),
        (
            "from importlib import import_module\nimport_module(f'transformers.models.{name}')",
            "import_module(f'transformers.models.{name}')",
        ),
    ],
)
def test_a_planted_reach_is_caught(planted: str, found: str) -> None:
    assert any(line.split(": ", 1)[1].startswith(found) for line in refused(planted)), refused(planted)


@pytest.mark.parametrize(
    "plain",
    [
        "from transformers import AutoModel, Cache",
        "from torch.utils.data import DataLoader",
        "import torch\ntorch.nn.functional.gelu\ntorch.optim.Optimizer\ntorch.cuda.is_available()",
        "class Own:\n    def __init__(self):\n        self._kept = 1\n    def kept(self):\n        return self._kept",
        "import sys\nsys._getframe(1)",
    ],
)
def test_what_is_documented_or_ones_own_is_let_in(plain: str) -> None:
    assert refused(plain) == []


# What the making of a class writes into it: the standard library's, and that of `torch.autograd.Function`.
MADE = {"_abc_impl", "_backward_cls", "_is_protocol"}


def taken_over(module_name: str) -> Iterator[str]:
    """The private names that a class of this module takes over from a class of a library."""
    module = importlib.import_module(module_name)
    for made in vars(module).values():
        if not isinstance(made, type) or made.__module__ != module_name:
            continue
        theirs = {name for base in made.__mro__ if base.__module__.split(".")[0] in DOCUMENTED for name in vars(base)}
        for name in vars(made):
            if _is_private(name) and name in theirs and name not in MADE:
                yield f"{module_name}.{made.__name__}.{name}"


def test_only_compat_takes_over_private_names_of_a_librarys_classes() -> None:
    found, looked_at = [], 0
    for package in PACKAGES:
        for info in pkgutil.walk_packages([str(importlib.import_module(package).__path__[0])], f"{package}."):
            if not info.name.startswith(("vlmzoo_registry.compat", "vlmzoo_registry.testing")):
                looked_at += 1
                found += taken_over(info.name)
    assert looked_at > 200
    assert found == []


def test_a_planted_private_override_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "planted_model.py").write_text(
        "from transformers import PreTrainedModel\n\n\nclass Planted(PreTrainedModel):\n    _supports_sdpa = True\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert list(taken_over("planted_model")) == ["planted_model.Planted._supports_sdpa"]


def undated(source: str) -> list[str]:
    """The entries of a module of compat that do not say since when they are needed and when they can go."""
    tree = ast.parse(source)
    texts: dict[str, str] = {}
    for node, behind in zip(tree.body, [*tree.body[1:], None], strict=True):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            texts[node.name] = ast.get_docstring(node) or ""
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            is_text = isinstance(behind, ast.Expr) and isinstance(behind.value, ast.Constant)
            texts[ast.unparse(target)] = str(ast.literal_eval(behind.value)) if is_text else ""
            if ast.unparse(target) == "__all__":
                comments = [line for line in source.splitlines() if line.startswith("# `")]
                for name in ast.literal_eval(node.value):
                    texts.setdefault(name, next((line for line in comments if f"`{name}`" in line.split(": ")[0]), ""))
    del texts["__all__"]
    return [name for name, text in texts.items() if not (re.search(SINCE, text) and re.search(UNTIL, text))]


STEM = attrgetter("stem")
SINCE, UNTIL = r"(?i)\bsince\b", r"\b(Stays|[Cc]an go)\b"


@pytest.mark.parametrize("file", [file for file in sorted(COMPAT.glob("*.py")) if file.name != "__init__.py"], ids=STEM)
def test_every_entry_of_compat_says_since_when_and_until_when(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert "holds for" in (ast.get_docstring(ast.parse(text)) or "")
    assert undated(text) == []


def test_an_entry_without_a_date_is_caught() -> None:
    planted = '''
from peft.tuners.lora import LoraLayer, Other

__all__ = ["DATED", "LoraLayer", "Other", "UNDATED", "helper"]
# `LoraLayer`: the layer; since 0.2. Stays.

DATED = 1
"""A number, since 1.0. Can go with 2.0."""

UNDATED = 2


def helper():
    """Help, since 1.0."""
'''
    assert sorted(undated(planted)) == ["Other", "UNDATED", "helper"]
