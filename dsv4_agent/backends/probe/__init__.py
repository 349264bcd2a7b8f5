"""What a server is and can do, found out before the first turn.

`light` asks so little that every start can afford it; `thorough` also samples a few tokens. Whatever a
server says about itself is foreign text: cut, cleaned, and believed only as far as it makes sense.
"""
