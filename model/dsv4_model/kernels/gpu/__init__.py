"""The operations of a pass as Triton kernels, and passes made of them.

No kernel of this folder has ever run on a GPU. What is known: each agrees with the PyTorch reference in
Triton's interpreter, and each compiles to machine code for NVIDIA compute capability 8.0 and 9.0. How fast
they are, and whether the block sizes of `tuning` are good ones, is not known.
"""
