"""The native back end: the model's operations in C++ for CPUs, and the building and binding of it."""
