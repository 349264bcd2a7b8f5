"""How servers are spoken to: requests, streams, failures and further attempts."""

import sys

# httpx has a command line of its own and imports it where rich and pygments are there: 20 MB and the longest
# part of its start, for nothing. It does without when told that there is none.
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
