"""How servers are spoken to: requests, streams, failures and further attempts."""
