"""The kinds of figures, one module each; see :mod:`reprscope.figures`."""
