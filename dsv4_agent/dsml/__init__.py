"""DSML, the wire format of DeepSeek-V4: render, parse, repair, constrain.

Pure text and token ids: nothing here knows a model, a tool or a screen.
"""
