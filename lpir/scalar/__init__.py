"""Scalar expressions: what one element of an elementwise operation computes."""
