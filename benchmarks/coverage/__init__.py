"""How often intervals cover the truth, and how often a sentence is wrong under its null.

Each module of this package, ``outcome`` and ``run`` apart, holds the simulations of one task:
``CASES`` maps what is simulated, in words, to a function that draws one data set with known truth,
hands it to the task's own ``summarise``, ``relate`` or ``findings``, and returns what came out. A
module is found by listing the package.
"""
