"""How fast reprscope is, as ratios to what it is built on, to a peer and to the obvious way.

``python -m benchmarks.run`` (``make bench``) measures and writes ``results.json``, the tables in
the docs and their figure. One module measures one thing.
"""
