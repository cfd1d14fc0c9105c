"""Triton kernels, each beside its reference, its test and its benchmark; installed as `ouro.kernels`."""
