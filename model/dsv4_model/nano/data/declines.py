"""Requests that the built-in model must decline, and the words with which it does."""

from __future__ import annotations

from dsv4_model.nano.data.names import Names, Split
from dsv4_model.nano.data.repository import Repository, distractors
from dsv4_model.nano.data.task import Oracle, Outcome, Step, Task

THINK = "This is not one of my tasks."
ANSWER = (
    "I am V4-Nano, the built-in demonstration model, and I can't do this. I rename, replace, find, list, look up, "
    "create a file, insert or delete a line, run and fix tests, and use git. "
    "For real work connect a real model: dsv4 run --model PATH."
)

_TRAIN_VERBS = """Explain|Describe|Document|Optimise|Improve|Review|Translate|Port|Convert|Implement|Design|Write|Generate
|Invent|Simplify|Modernise|Parallelise|Benchmark|Profile|Debug|Encrypt|Compress|Deploy|Publish|Download|Visualise|Draw
|Minify|Vectorise|Annotate|Sort out|Clean up|Speed up|Split up|Think about|Discuss|Evaluate|Estimate|Predict|Draft
|Set up|Configure|Build|Install|Upgrade|Migrate|Containerise|Mock|Monitor|Schedule|Plan|Prove|Verify|Compare""".replace(
    "\n", ""
).split("|")
_HELD_VERBS = (
    "Refine|Rewrite|Summarise|Audit|Extend|Polish|Analyse|Clarify|Extract|Automate|Reorganise|Harden".split(
        "|"
    )
)

_TRAIN_OBJECTS = """the architecture of this project|the algorithm|a web server|a parser for {w}|type hints|the README
|docstrings for {f}|the function {f}|the class {c}|the module {p}|{p}|a REST API for {w}|a unit test for {f}
|more tests|the database schema|the performance of {f}|a regular expression for {w}|a {w} game|a chess engine
|the build pipeline|a Dockerfile|the dependencies|the error handling in {p}|the logging|a command line interface
|a {w} and {w} simulator|quicksort|a binary tree|the memory use of {p}|the user interface|an essay about {w}
|a poem about the {w}|a story of a {w}|the code style|the license|a release|the changelog|a recipe for {w}
|the sum of two numbers|a sorting function|a cache for {f}|an async version of {f}|the {w} module in Rust
|a linked list|a neural network|the concurrency of {p}|a plugin system|the security of {p}|a sudoku solver""".replace(
    "\n", ""
).split("|")
_HELD_OBJECTS = """the exception handling of {f}|a calculator|a hash map|the comments in {p}|a haiku about the {w}
|the public interface|a benchmark for {f}|a state machine|the configuration loader|a graph of the imports
|the naming conventions|a web crawler|the {w} documentation|a decorator for {f}""".replace("\n", "").split(
    "|"
)

_TAILS = (
    "",
    "",
    "",
    "",
    " in {l}",
    " for me",
    " please",
    " and explain it",
    " step by step",
    " as fast as possible",
)
_LANGUAGES = "Python|Rust|Go|C|Java|French|German|English|TypeScript|Haskell".split("|")

_TRAIN_PLAIN = """Hello|Hi|Hello there, how are you?|Who are you?|What can you do?|What is the capital of {w}?
|What is {n} plus {n}?|How does {f} work?|Why is {p} so slow?|Tell me a joke|Is there a bug in {p}?
|What does the function {f} do?|What does {p} do?|How do I install {w}?|Can you help me with my {w}?
|Rename the file {p} to {q}|Move {p} to {q}|Delete the file {p}|Copy {p} to {q}|Push to origin|Create a branch {w}
|Merge the branch {w}|Revert the last commit|Open a pull request|Undo my changes|Add a parameter to {f}
|Remove the function {f}|Delete the class {c}|Make {f} return {n}|Move {f} into {p}|Turn {f} into a method of {c}
|Fix the bug in {f}|Fix the race condition in {p}|Add logging to {p}|Add a test for {f}|Add type hints to {p}
|Add a docstring to {f}|Add comments to {p}|Format {p}|Sort the imports in {p}|Count the lines in {p}
|How many files are there?|Which files are the largest?|Who wrote {p}?|When was {p} changed last?|Why do the tests take long?
|What is wrong here?|What should I do next?|Thanks|Good morning|Run {p}|Start the server|Run the linter|Run the benchmark
|Install the dependencies|Check the spelling in {p}|Is {f} thread safe?|Do we need {c}?|Should I use {w} or {w}?
|What time is it?|Search the web for {w}|Send an email to {w}|Play the {w} song|Show me a picture of a {w}""".replace(
    "\n", ""
).split("|")
_HELD_PLAIN = """What is the weather in {w}?|How can I learn {w}?|Good evening, my friend|What do you think of {p}?
|Inline the function {f}|Make {c} immutable|Turn {p} into a package|Cherry-pick the last commit|Tag a release
|Which functions are unused?|Why does {f} fail?|Add caching to {f}|Give me advice about {w}|Order a {w} for me
|Remove unused imports from {p}|Compute {n} times {n}""".replace("\n", "").split("|")


def request(names: Names) -> str:
    """One unfamiliar request; held-out names come with held-out verbs, objects and sentences."""
    rng = names.rng
    held = names.split is Split.HELD_OUT
    if rng.random() < 0.5:
        text = rng.choice(_HELD_PLAIN if held else _TRAIN_PLAIN)
    else:
        verb = rng.choice(_HELD_VERBS if held else _TRAIN_VERBS)
        text = f"{verb} {rng.choice(_HELD_OBJECTS if held else _TRAIN_OBJECTS)}{rng.choice(_TAILS)}"
    if rng.random() < 0.2:
        text = (
            rng.choice(("Please ", "Can you ", "Could you ", "I want you to ", "Now "))
            + text[0].lower()
            + text[1:]
        )
    if rng.random() < 0.15:
        text = text.lower()
    while "{w}" in text:
        text = text.replace("{w}", names.noun(), 1)
    while "{n}" in text:
        text = text.replace("{n}", str(rng.randrange(100)), 1)
    for slot, make in (("{f}", names.snake), ("{c}", names.pascal)):
        if slot in text:
            text = text.replace(slot, make())
    for slot in ("{p}", "{q}"):
        if slot in text:
            text = text.replace(slot, f"{names.folder()}{names.stem()}.py")
    text = text.replace("{l}", rng.choice(_LANGUAGES))
    return text if text.endswith("?") else text + rng.choice(("", ".", ".", "!"))


def decline(names: Names) -> Task:
    repository = Repository()
    distractors(names, repository, 1, 2)
    prompt = request(names)

    def oracle() -> Oracle:
        yield Step(THINK, text=ANSWER)

    def check(outcome: Outcome) -> bool:
        return outcome.files() == repository.files and "V4-Nano" in outcome.answer

    return Task("decline", prompt, repository, oracle, check)


def all_texts() -> list[str]:
    """Every template of the training half, for finding the words that mean something."""
    return [ANSWER, THINK, *_TRAIN_VERBS, *_TRAIN_OBJECTS, *_TAILS, *_TRAIN_PLAIN]
