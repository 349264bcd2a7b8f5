"""V4-Nano's tokenizer: a small byte-level BPE with the structural tokens of DeepSeek-V4.

The pre-tokenizer cuts identifiers into runs of one case, digits and punctuation, and never joins a space to a
word unless the word is one of a short list of English function words. So a name has the same pieces wherever
it stands (after a space, a quote, a tag), which is what makes copying it learnable.

    python -m dsv4_model.nano.data.vocabulary OUT_FOLDER
"""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from dsv4_agent.dsml.templates import TOOLS_HEAD, TOOLS_TAIL
from dsv4_model.nano.data import declines, names, phrasing, suites
from dsv4_model.nano.data.families import draw
from dsv4_model.nano.data.names import Split

SIZE = 2048

STRUCTURAL = (
    "<｜begin▁of▁sentence｜>",
    "<｜end▁of▁sentence｜>",
    "<｜▁pad▁｜>",
    "<｜User｜>",
    "<｜Assistant｜>",
    "<think>",
    "</think>",
    "｜DSML｜",
    "<｜latest_reminder｜>",
    "<｜action｜>",
    "<｜query｜>",
    "<｜authority｜>",
    "<｜domain｜>",
    "<｜title｜>",
    "<｜extracted_url｜>",
    "<｜read_url｜>",
)
"""Added tokens in the order of their ids; the first two are BOS 0 and EOS 1 as in DeepSeek-V4."""

_SPECIAL = 3

PHRASES = tuple(
    dict.fromkeys(piece for piece in [*re.split(r"\{\w+\}", TOOLS_HEAD), TOOLS_TAIL] if len(piece) > 20)
)
"""Fixed sentences of the tools section; one token each keeps the prompt of a toy model short."""

_TAGS = (
    r'invoke name="',
    r'parameter name="',
    r'" string="true">',
    r'" string="false">',
    r'">\n',
    r"tool_calls>\n?",
    r"invoke>\n",
    r"parameter>\n",
    r"tool_result>",
    r"Did you mean: '",
    r'\{"name": "',
    r'", "description": "',
    r'", "parameters": \{"type": "object", "properties": \{',
    r'": \{"type": "string"\}',
    r'": \{"type": "boolean"\}',
    r'\}, "required": \[',
    r"\]\}\}",
)
_JOINED = (
    "the to a an in of and is it be by with from for into after before as on at this that are was has have not new my "
    "me all no any file files line lines name function class tests test everywhere instead message value called find "
    "search run again changes again please use uses used where which what it should"
).split()

PATTERN = "|".join(
    (
        *_TAGS,
        rf" (?:{'|'.join(sorted(set(_JOINED), key=lambda w: (-len(w), w)))})(?![A-Za-z_0-9])",
        r"[A-Z]?[a-z]+",
        r"[A-Z]+(?![a-z])",
        r"\p{L}+",
        r"\p{N}",
        r"_+",
        r"\n+",
        r"\t+",
        r" +",
        r"</?",
        r"[^\p{L}\p{N}\s_<]+",
        r"\s+",
    )
)


def corpus(tasks: int = 6000) -> Iterator[str]:
    """Texts of the kind that the model will read and write."""
    rng = random.Random(7)
    for seed in range(tasks):
        task = draw(seed, Split.TRAIN)
        yield task.prompt
        yield from task.repository.files.values()
        yield from task.repository.files
        step = next(task.oracle())
        yield f"{step.think}</think>{step.text}"
        for call in step.calls:
            yield f'\n\n<tool_calls>\n<invoke name="{call.name}">\n'
            for key, value in call.arguments.items():
                kind = "true" if isinstance(value, str) else "false"
                yield f'<parameter name="{key}" string="{kind}">{value}</parameter>\n'
            yield "</invoke>\n</tool_calls>"
        if seed % 8 == 0:
            yield _RESULTS
            yield declines.ANSWER
            yield " ".join(rng.sample(names.NOUNS + names.VERBS + names.ADJECTIVES, 150))
    for word in names.NOUNS + names.VERBS + names.ADJECTIVES:
        for _ in range(6):
            yield f"{word} {word.capitalize()} {word.upper()}" if rng.random() < 0.35 else word
    yield from [_SCHEMA] * 3000
    for group in (
        phrasing.RENAME,
        phrasing.REPLACE,
        phrasing.LOOKUP,
        phrasing.FIX,
        phrasing.TEST,
        phrasing.COMMIT,
    ):
        for text in group:
            yield from [text] * 40


_SCHEMA = (
    '{"name": "", "description": "Read a file.", "parameters": {"type": "object", "properties": {"path": '
    '{"type": "string"}, "all": {"type": "boolean"}}, "required": ["path", "old_string", "new_string"]}}'
    '<parameter name="replace_all" string="false">true</parameter> everywhere'
)

_RESULTS = f"""Edited path: 2 replacements.\nEdited path: 1 replacement.\nNo matches.\nCreated path (3 lines).
[exit 1]\n[exit 0]\n[exit 1]\nOn branch main\nOn branch main\n M path\n?? path\n D path\nClean.\nCommitted 1a2b3c4:
======================================================================
ERROR: test_name (test_path.NameTest.test_name)
FAIL: test_name (test_path.NameTest.test_name)
ERROR: test_path (unittest.loader._FailedTest.test_path)
----------------------------------------------------------------------
Traceback (most recent call last):
  File "/tmp/project/test_path.py", line 8, in test_name
    self.assertEqual(name(3), 12)
                     ^^^^^^^
ImportError: Failed to import test module: test_path
NameError: name 'name' is not defined. Did you mean: 'name'?
AttributeError: module 'name' has no attribute 'name'. Did you mean: 'name'?
ImportError: cannot import name 'name' from 'name' (/tmp/project/name.py)
AssertionError: 12 != 13
Ran 1 test in 0.000s\n\nOK\nRan 2 tests in 0.001s\n\nFAILED (errors=1)\nFAILED (failures=1)\n{suites.COMMAND}
diff --git a/path b/path\nindex 1a2b3c4..5d6e7f8 100644\n--- a/path\n+++ b/path\n@@ -1,3 +1,4 @@\n
String parameters should be specified as is and set. You have access to a set of tools to help answer the question.
Renamed `name` to `name`. Search for `name`. No `name` is left. `name` is in path. Edit it and search again.
The name `name` should be `name`. Search for `name`. Run the tests again. All tests pass: Ran 2 tests. It is gone.
"""


def train(out: Path) -> None:
    """Write `tokenizer.json` into `out`; the same code gives the same file."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE - len(STRUCTURAL) - len(PHRASES),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    definition = json.loads(tokenizer.to_str())
    added = (*STRUCTURAL, *PHRASES)
    pieces = {piece: i + len(added) for piece, i in definition["model"]["vocab"].items()}
    # Added tokens keep their ids only where the model's own vocabulary names them as well.
    definition["model"]["vocab"] = {text: i for i, text in enumerate(added)} | pieces
    definition["added_tokens"] = [
        {
            "id": i,
            "content": text,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": i < _SPECIAL,
        }
        for i, text in enumerate(added)
    ]
    out.mkdir(parents=True, exist_ok=True)
    (out / "tokenizer.json").write_text(
        json.dumps(definition, ensure_ascii=False, indent=0), encoding="utf-8"
    )


if __name__ == "__main__":
    train(Path(sys.argv[1]))
