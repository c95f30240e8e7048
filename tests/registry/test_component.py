"""Importing a component's code, and what is said when that fails."""

import pytest

from vlmzoo_registry import Component, ComponentConfig, ComponentSpec, NoOptions, PluginError


@pytest.fixture
def component(site):
    site.write(
        "fake_parts.py",
        """
        from vlmzoo_registry import ComponentConfig

        class Resampler:
            pass

        class ResamplerConfig(ComponentConfig):
            queries: int = 4

        number = 7
        """,
    )
    site.write("fake_needs.py", "import absent_package.models\n")
    site.write("fake_needs_own.py", "import fake_needs_own.inner\n")
    site.write("fake_bad.py", "x = 1\n\n1 / 0\n")
    site.write("fake_syntax.py", "def (\n")
    site.write("fake_exits.py", "raise SystemExit(2)\n")

    def make(**fields):
        fields = {"kind": "connector", "name": "part", "factory": "fake_parts:Resampler", "summary": "A part."} | fields
        return Component("rainbow", ComponentSpec(**fields), "vlmzoo-rainbow", "3.2")

    return make


WHO = "connector `rainbow/part` (vlmzoo-rainbow 3.2): "


def test_factory_and_config_are_imported(component):
    part = component(config="fake_parts:ResamplerConfig")
    assert part.load_factory().__name__ == "Resampler"
    assert issubclass(part.load_config(), ComponentConfig)
    assert part.load_config()(queries=2).queries == 2
    assert component().load_config() is NoOptions


def message(call):
    with pytest.raises(PluginError) as caught:
        call()
    assert caught.value.exit_code == 4
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_missing_package_comes_with_the_install_line(component):
    part = component(factory="fake_needs:X", requires=("absent-package>=2", "other[extra]"))
    text = message(part.load_factory)
    assert text.startswith(
        WHO + "factory `fake_needs:X` cannot be imported: ModuleNotFoundError: No module named 'absent_package' ("
    )
    assert text.endswith(
        'fake_needs.py:1); package `absent_package` is missing: pip install "absent-package>=2" "other[extra]"'
    )


def test_a_missing_package_that_nobody_declared(component):
    text = message(component(factory="fake_needs:X").load_factory)
    assert text.endswith("package `absent_package` is missing: pip install --upgrade vlmzoo-rainbow")


@pytest.mark.parametrize("factory", ["fake_absent.inner:X", "fake_parts.inner:X"])
def test_a_module_that_the_plugin_does_not_ship(component, factory):
    text = message(component(factory=factory).load_factory)
    assert "ModuleNotFoundError: No module named 'fake_" in text
    assert text.endswith("the plugin names a module that it does not ship: tell the authors of vlmzoo-rainbow")


def test_a_missing_attribute_gets_the_nearest(component):
    assert message(component(factory="fake_parts:Resamplr").load_factory) == (
        WHO + "factory `fake_parts:Resamplr`: module `fake_parts` has no attribute `Resamplr`; did you mean `Resampler`?"
    )
    assert message(component(config="fake_parts:Zzzz").load_config) == (
        WHO + "config `fake_parts:Zzzz`: module `fake_parts` has no attribute `Zzzz`"
    )


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("fake_bad", r"ZeroDivisionError: division by zero ("),
        ("fake_bad", r"fake_bad.py:3)"),
        ("fake_syntax", "SyntaxError: "),
        ("fake_syntax", "fake_syntax.py:1)"),
        ("fake_exits", "SystemExit: 2 ("),
    ],
)
def test_whatever_an_import_raises_is_placed(component, module, words):
    text = message(component(factory=f"{module}:X").load_factory)
    assert text.startswith(WHO + f"factory `{module}:X` cannot be imported: ")
    assert words in text


def test_an_interrupt_is_no_fault_of_the_plugin(component, site):
    site.write("fake_interrupted.py", "raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        component(factory="fake_interrupted:X").load_factory()


def test_a_factory_must_be_callable_and_a_config_a_component_config(component):
    assert message(component(factory="fake_parts:number").load_factory) == (
        WHO + "factory `fake_parts:number` is 7, which cannot be called"
    )
    text = message(component(config="fake_parts:Resampler").load_config)
    assert text.endswith("which is not a class derived from `ComponentConfig`")
    assert "which is not a class" in message(component(config="fake_parts:number").load_config)
