"""Code read as text: what of it a stage can reach, and a hash of each part.

symbols    modules, symbols, and what is written of them
imports    what an import binds and loads
source     what a module binds at its top level
scopes     which names of a function are its own
resolve    what a name of a module stands for: a symbol, a module, or something of a library
text       a syntax tree as text, without what cannot change behaviour
closure    what a stage can reach, from there on
digest     a variant's code as lines
"""
