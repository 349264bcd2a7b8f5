"""The process that does one item: a job on stdin, progress and the result on stdout, one JSON object a line.

Keys follow the job (`handed_secrets`). It dies with its parent; what it started is found by where it works.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable

from dsv4_agent.batch.handed_secrets import take
from dsv4_agent.batch.job import Job
from dsv4_agent.batch.parent import die_with_parent
from dsv4_agent.batch.procedure import Procedure
from dsv4_agent.batch.states import ItemResult, State
from dsv4_agent.session.journal import JournalError
from dsv4_agent.workbench.failures import RunFailure
from dsv4_agent.workbench.model_options import Effort, ModelOptions
from dsv4_agent.workbench.models import OpenedModel, open_model
from dsv4_tools.sandbox.base import SandboxUnavailable


def main() -> int:
    """Do the job of stdin. The exit code is 0 when there is a result, whatever it says.

    Without a model no item can be done, so that is no item's result but a `failure`.
    """
    die_with_parent()
    job = Job.from_line(sys.stdin.buffer.readline())
    take(sys.stdin.buffer.readline())
    output = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="replace", buffering=1)
    os.dup2(2, 1)  # what a library prints must not be taken for a report

    def send(**report: object) -> None:
        output.write(json.dumps(report) + "\n")  # escaped: names of files need not be UTF-8

    try:
        opened = _open(job)
    except RunFailure as failure:
        send(failure=[failure.ending.value, failure.cause, failure.remedy, failure.code.value])
        return 0
    try:
        result = asyncio.run(_work(job, opened, lambda text: send(progress=text)))
    except (RunFailure, JournalError, SandboxUnavailable) as failure:
        result = ItemResult(job.id, State.ERROR, " ".join(str(failure).split()))
    send(result=result.to_json())
    return 0


def _open(job: Job) -> OpenedModel:
    choice = job.model
    options = ModelOptions(
        name=choice.name,
        effort=None if choice.effort is None else Effort(choice.effort),
        temperature=choice.temperature,
    )
    return open_model(options)


async def _work(job: Job, opened: OpenedModel, say: Callable[[str], None]) -> ItemResult:
    try:
        return await Procedure(job, opened.backend, opened.preset, say).run()
    finally:
        await opened.backend.close()


if __name__ == "__main__":
    sys.exit(main())
