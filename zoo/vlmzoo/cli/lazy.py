"""Commands that are imported when they are called: `vlmzoo --help` shows their summaries and imports none of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from vlmzoo.exits import refuses_exit


@dataclass(frozen=True)
class LazyCommand:
    """A command: the `"module:function"` that does it, the panel of the help it stands in, and its one-line summary."""

    function: str
    panel: str
    summary: str

    def load(self, name: str) -> Any:
        """Import the function and make a command of it, its options from the signature, its help from the docstring."""
        module, attribute = self.function.split(":")
        app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)
        function = refuses_exit(getattr(import_module(module), attribute))
        app.command(name, context_settings={"help_option_names": ["-h", "--help"]})(function)
        command = get_command(app)
        command.name = name
        return command

    def placeholder(self, name: str) -> Any:
        """What stands for the command in the list of commands."""
        return TyperCommand(name, help=self.summary, short_help=self.summary, rich_help_panel=self.panel)


def lazy_group(commands: Mapping[str, LazyCommand]) -> type[TyperGroup]:
    """The class of a group of these commands, in this order."""

    class LazyGroup(TyperGroup):
        def list_commands(self, ctx: Any) -> list[str]:
            return list(commands)

        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            if cmd_name in self.commands:
                return self.commands[cmd_name]
            return commands[cmd_name].placeholder(cmd_name) if cmd_name in commands else None

        def resolve_command(self, ctx: Any, args: list[str]) -> Any:
            """Called only where a command is about to run (or to show its help): now it is imported."""
            name = args[0]
            if name in commands:
                self.commands[name] = commands[name].load(name)
            elif not name.startswith("-"):
                from vlmzoo_registry.suggest import did_you_mean

                ctx.fail(f"there is no command `{name}`{did_you_mean(name, commands)}")
            return super().resolve_command(ctx, args)

    return LazyGroup
