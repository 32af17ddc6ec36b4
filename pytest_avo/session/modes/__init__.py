"""One module a mode: what a run over kernels is for. No rules of measuring, which live below."""
