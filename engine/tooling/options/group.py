"""Options that know their section of the help, and groups of them that parse into one record.

A group is declared once and used by every program that needs its subject. A program states where
it wants another default when it calls for the group, and nowhere else. What the options mean for
an engine or a benchmark is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import click

GENERAL = "Options"
Choice = TypeVar("Choice")
Command = TypeVar("Command", bound=Callable[..., Any])


class Option(click.Option):
    """An option with a section, with spellings that help does not show, and with short forms.

    Parameters
    ----------
    section : str
        Heading that help lists the option under.
    aliases : sequence of str
        Further spellings, kept so that old command lines work; help does not show them.
    flags : mapping of str to str
        Flags that stand for this option with a value, such as --cuda for --backend cuda. The last
        one on the command line counts.
    default_text : str, optional
        What help calls the default where the value itself would tell nothing.
    """

    def __init__(
        self,
        param_decls: Sequence[str],
        section: str = GENERAL,
        aliases: Sequence[str] = (),
        flags: Mapping[str, str] | None = None,
        default_text: str | None = None,
        **attrs: Any,
    ) -> None:
        super().__init__([*param_decls, *aliases], **attrs)
        self.section = section
        self.aliases = tuple(aliases)
        self.flags = dict(flags or {})
        self._default_text = default_text if default_text is not None else _default(attrs)

    @property
    def spelling(self) -> str:
        """The option as help and errors show it, for example -t/--threads."""
        return "/".join(name for name in self.opts if name not in self.aliases)

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        super().add_to_parser(parser, ctx)
        for flag, value in self.flags.items():
            parser.add_option(
                obj=self, opts=[flag], dest=self.name, action="store_const", const=value
            )

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        if self.hidden:
            return None
        left = self.spelling.replace("/", ", ")
        if not self.is_flag:
            left = f"{left} {self._value_name()}"
        extra = [text for text in (getattr(self.type, "hint", ""),) if text]
        if self._default_text:
            extra.append(f"default: {self._default_text}")
        told = f"  [{'; '.join(extra)}]" if extra else ""
        return left, f"{self.help or ''}{told}".strip()

    def _value_name(self) -> str:
        if self.metavar:
            return self.metavar
        if isinstance(self.type, click.Choice):
            return f"[{'|'.join(map(str, self.type.choices))}]"
        return "FILE" if isinstance(self.type, click.Path) else self.type.name.upper()


def _default(attrs: Mapping[str, Any]) -> str:
    value = attrs.get("default")
    if value is None or isinstance(value, bool) or value == "":
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)


def option(*names: str, **attrs: Any) -> Callable[[Command], Command]:
    """Decorator: `click.option` with the class above."""
    return click.option(*names, cls=Option, **attrs)


def options(*decorators: Callable[[Any], Any]) -> Callable[[Command], Command]:
    """One decorator out of several, in the order in which help lists them."""

    def decorate(command: Command) -> Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


class OptionGroup(Generic[Choice]):
    """Options of one subject and the record that they parse into.

    Parameters
    ----------
    title : str
        Heading in help.
    declared : sequence of (names, attributes)
        As for `option`.
    parse : callable
        From the options' values by name to the record; refuses what cannot be honoured.
    """

    def __init__(
        self,
        title: str,
        declared: Sequence[tuple[tuple[str, ...], dict[str, Any]]],
        parse: Callable[[dict[str, Any]], Choice],
    ) -> None:
        self.title = title
        self._declared = [(names, {**attrs, "section": title}) for names, attrs in declared]
        self._names = [Option(names, **attrs).name or "" for names, attrs in self._declared]
        self._parse = parse

    def __call__(self, command: Command) -> Command:
        """Decorator: adds the options; the command gets their values as keyword arguments."""
        return options(*(option(*names, **attrs) for names, attrs in self._declared))(command)

    def only(self, *names: str) -> Callable[[Command], Command]:
        """Decorator: adds some of the options, by the names of their values."""
        chosen = [self._declared[self._names.index(name)] for name in names]
        return options(*(option(*decls, **attrs) for decls, attrs in chosen))

    def take(self, values: dict[str, Any]) -> Choice:
        """The record; the options' values are removed from a command's keyword arguments.

        Raises
        ------
        OptionError
            If a value cannot be honoured.
        """
        return self._parse({name: values.pop(name) for name in self._names})
