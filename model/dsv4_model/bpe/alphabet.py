"""GPT-2's way to write any bytes as printable text, which tokenizer.json files use."""

from __future__ import annotations


def byte_alphabet() -> dict[str, int]:
    """The printable stand-ins for the 256 bytes: ``{character: byte}``."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in set(printable)]
    alphabet = {chr(byte): byte for byte in printable}
    alphabet.update({chr(256 + i): byte for i, byte in enumerate(hidden)})
    return alphabet
