"""The behaviour of a cell's code as a short text: code/VARIANT.lock, its only dependency on code.

reading    our code as text: what a variant of a stage can reach, a line each
declared   what no text says: which modules are options, what runs others as programs
variants   which variant a cell is, and what it chooses
files      all that our packages hold, and a hash of it
libraries  versions of those that compute
code       what a variant is made of
locks      the files themselves: written by `omniopd plan`, compared by each stage
guard      refuses, in a stage, what its variant does not load
history    locks as they were when cells ran
why        what changed, in words
accept     cells of changed code that need not run, as one of them writes the same bytes

These modules decide whether a stage runs, never what it writes, and are part of no lock.
"""
