"""Which commands there are: one line each. To add one, write its function and add its line."""

from vlmzoo.cli.lazy import LazyCommand

BEGIN, PARTS, MODELS = "Begin", "Parts", "Models"

COMMANDS = {
    "quickstart": LazyCommand(
        "vlmzoo.cli.quickstart:quickstart", BEGIN, "Train a small model on real images, see what it says."
    ),
    "list": LazyCommand("vlmzoo.cli.list:list_components", PARTS, "The parts there are, with source, licence and paper."),
    "show": LazyCommand("vlmzoo.cli.show:show", PARTS, "One part: what it is, and its options."),
    "doctor": LazyCommand("vlmzoo.cli.doctor:doctor", PARTS, "Every plugin: well, or what is wrong and what helps."),
    "check": LazyCommand("vlmzoo.cli.check:check", PARTS, "Prove a part: the conformance kit on one component."),
    "recipes": LazyCommand("vlmzoo.cli.recipes:recipes", MODELS, "The recipes that come with it, and of what they are made."),
    "plan": LazyCommand("vlmzoo.cli.plan:plan", MODELS, "Check a recipe before anything is downloaded or trained."),
    "labels": LazyCommand("vlmzoo.cli.labels:labels", MODELS, "Which tokens a recipe learns, in colour, for real samples."),
    "schema": LazyCommand("vlmzoo.cli.schema:schema", MODELS, "The JSON schema of recipes, for editors."),
    "train": LazyCommand("vlmzoo.cli.train:train", MODELS, "Train the stages of a recipe."),
    "compare": LazyCommand("vlmzoo.cli.compare:compare", MODELS, "Compare combinations of parts under one budget."),
    "generate": LazyCommand("vlmzoo.cli.generate:generate", MODELS, "Let a checkpoint speak about an image."),
    "export": LazyCommand("vlmzoo.cli.export:export", MODELS, "Give a checkpoint to transformers."),
}
