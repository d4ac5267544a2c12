"""What a cell's code does, as a short text: code/VARIANT.lock, the cell's only dependency on code.

files      all that our packages hold, and a hash of it
source     what a module binds at its top level
scopes     which names of a function are its own
resolve    what a name of a module stands for: a symbol, a module, or something of a library
text       a syntax tree as text, without what cannot change behaviour
closure    what a variant of a stage can reach, from there on
declared   what no text says: which modules are options, what runs others as programs
variants   which variant a cell is, and what it chooses
digest     a variant's code as lines
libraries  versions of those that compute
locks      the files themselves: written by `omniopd plan`, compared by each stage
guard      refuses, in a stage, what its variant does not load
why        what changed, in words

These modules decide whether a stage runs, never what it writes, and are part of no lock.
"""
