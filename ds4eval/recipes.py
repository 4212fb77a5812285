"""Recipes: what a published score was asked under, as one name.

A recipe sets the form of the prompt, the sampling and the repeats; options that the user typed
beat it, and what they changed is kept with the run. Nothing here knows a model or a question.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ds4eval.documents import Document


@dataclass(frozen=True, slots=True)
class Recipe:
    """One way of asking.

    Parameters
    ----------
    name : str
    version : str
        Changes whenever a value does.
    summary : str
        One line for people.
    form : str
        Of the prompt; see `ds4eval.questions.prompts`.
    values : dict
        Options of `run` and what they are set to, by name.
    """

    name: str
    version: str
    summary: str
    form: str
    values: Mapping[str, float | int] = field(default_factory=dict)


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "upstream",
            "1",
            "as the C program ds4-eval asks: answer line, greedy, once",
            "line",
            {"temp": 0.0, "top_k": 0, "top_p": 1.0, "min_p": 0.05, "repeats": 1},
        ),
        Recipe(
            "card",
            "1",
            "as DeepSeek's model card measures: boxed answer, temperature 1, top-p 1, 4 repeats",
            "boxed",
            {"temp": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repeats": 4},
        ),
        Recipe("boxed", "1", "a boxed answer, sampling as it is", "boxed"),
        Recipe(
            "simple-evals",
            "1",
            "as openai/simple-evals asks: its words, temperature 0.5, 4 repeats",
            "simple-evals",
            {"temp": 0.5, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repeats": 4},
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Applied:
    """A recipe as a command line used it, or none; `typed` are values that beat the recipe's."""

    recipe: Recipe | None = None
    typed: Mapping[str, float | int] = field(default_factory=dict)

    @property
    def form(self) -> str:
        """Form of the prompt."""
        return "line" if self.recipe is None else self.recipe.form

    def value(self, name: str, given: float) -> float:
        """Value of an option: the user's where it was typed, else the recipe's if it has one."""
        if self.recipe is None or name in self.typed:
            return given
        return self.recipe.values.get(name, given)

    def record(self) -> Document:
        """What a run's manifest keeps of it; empty without a recipe."""
        if self.recipe is None:
            return {}
        values = self.recipe.values
        return {
            "name": self.recipe.name,
            "version": self.recipe.version,
            "prompt": self.recipe.form,
            "overridden": {
                name: {"recipe": values[name], "typed": value}
                for name, value in self.typed.items()
                if value != values[name]
            },
        }


def applied(name: str | None, typed: Mapping[str, float | int]) -> Applied:
    """A recipe by name with what the user typed of its options; none without a name."""
    if name is None:
        return Applied()
    recipe = RECIPES[name]
    return Applied(recipe, {name: typed[name] for name in recipe.values if name in typed})
