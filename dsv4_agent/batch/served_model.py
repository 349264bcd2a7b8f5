"""`dsv4 serve` as a batch starts it: gone when the batch is."""

from __future__ import annotations

import sys

from dsv4_agent.batch.parent import die_with_parent
from dsv4_agent.server.launch import execute
from dsv4_agent.server.options import ServeOptions
from dsv4_agent.workbench.model_options import EngineChoice


def main() -> int:
    """Serve the model named by the first argument, as many sequences at once as the second says.

    The token for it is the first line of standard input.
    """
    die_with_parent()
    model, sequences = sys.argv[1], int(sys.argv[2])
    engine = EngineChoice(keep_conversations=False)
    options = ServeOptions(
        model=model,
        token=sys.stdin.readline().strip(),
        sequences=sequences,
        queue=sequences * 4,
        announce=False,
        engine=engine,
    )
    return execute(options)


if __name__ == "__main__":
    sys.exit(main())
