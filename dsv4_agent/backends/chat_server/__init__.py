"""The chat backend: any server that speaks OpenAI's chat completions, DeepSeek's API among them."""
