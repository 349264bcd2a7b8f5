"""The server: OpenAI's protocol and others over the engine in this process."""
