"""Byte-level BPE: text to ids and back, over DeepSeek-V4's vocabulary or any other.

`TableVocabulary` has DeepSeek-V4's 129,280 tokens ready in milliseconds, from a table that is made once;
`LibraryVocabulary` reads every tokenizer.json with the `tokenizers` package. Both give the same ids.
"""
