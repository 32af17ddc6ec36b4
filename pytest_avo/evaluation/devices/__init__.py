"""Kinds of device that a kernel can run on."""
