"""Names that a batch leaves in the user's repository: branches and commit messages."""

from __future__ import annotations

from dsv4_agent.batch.choices import Delivery
from dsv4_agent.batch.items import Item
from dsv4_agent.batch.plan import Plan
from dsv4_agent.batch.template import Template

_SUBJECT = 72


def branch_of(plan: Plan, item: Item | None) -> str:
    """The branch for an item, or for all (None). Raises `TemplateError`."""
    if plan.branch is not None:
        return Template.parse(plan.branch).text({} if item is None else item.values)
    return f"dsv4/{plan.name}" if item is None else f"dsv4/{plan.name}/{item.id}"


def message_of(plan: Plan, item: Item) -> str:
    """The commit message of an item, without trailers. Raises `TemplateError`."""
    if plan.message is not None:
        return Template.parse(plan.message).text(item.values).strip()
    prompt = Template.parse(plan.prompt or "").text(item.values).strip()
    first = prompt.splitlines()[0] if prompt else plan.name
    return first if len(first) <= _SUBJECT else first[: _SUBJECT - 1] + "…"


def with_trailers(message: str, plan: Plan, run: str, item: Item, session: str | None) -> str:
    """The message and where it came from."""
    trailers = {"Dsv4-Batch": run, "Dsv4-Item": item.id, "Dsv4-Session": session}
    lines = [f"{name}: {value}" for name, value in trailers.items() if value]
    return f"{message}\n\n" + "\n".join(lines) + "\n"


def joined_message(plan: Plan, run: str, items: list[Item]) -> str:
    """The message of one commit for all items (`deliver = "branch"`)."""
    assert plan.deliver is Delivery.BRANCH
    subject = f"{plan.name}: {len(items)} item{'' if len(items) == 1 else 's'}"
    listed = "\n".join(f"- {message_of(plan, item)}" for item in items)
    return f"{subject}\n\n{listed}\n\nDsv4-Batch: {run}\n"
