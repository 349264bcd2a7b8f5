"""DeepSeek-V4 in PyTorch: configuration, checkpoint, layers, caches and the in-process engine."""
