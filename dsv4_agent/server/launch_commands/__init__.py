"""The commands that serve a released DeepSeek-V4 with vLLM or SGLang: text, after sums that say they fit.

They follow vLLM's recipe for these models (0.33) and SGLang's options (0.5.23). None has been run by this
project, which has no such machines, and every plan says so.
"""

from dsv4_agent.server.launch_commands.errors import LaunchError
from dsv4_agent.server.launch_commands.plan import (
    LaunchEngine,
    LaunchPlan,
    LaunchRequest,
    Parallel,
    as_shell,
    launch_command,
)

__all__ = [
    "LaunchEngine",
    "LaunchError",
    "LaunchPlan",
    "LaunchRequest",
    "Parallel",
    "as_shell",
    "launch_command",
]
