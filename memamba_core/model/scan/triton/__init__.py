"""The selective scan for a GPU, in kernels that Triton compiles."""
