"""The library that stages are made of. A package imports only packages of layers below its own.

core         errors, seeds, files, YAML and JSON, what DVC knows of files
data         tables, Parquet, text and ids, rows that somebody else wrote
processes    processes that are started, how they end, the server that stages are forked from
sandbox      programs that nobody trusts
code_digest  what a cell's code does: code/*.lock, and the guard at a stage's start
config       the blocks of params.yaml, and its settings that are of no cell
judgments    the store of the teachers' answers
stage        what a stage is handed, keeps, and writes beside its tables
tasks        problems, worked solutions, checkers
method       the paper: schedulers, similarity, objectives, posterior
engines      models that generate and score: transformers, vLLM, chat templates, checkpoints
teachers     text in, text out: providers, what goes over the wire, answers that are purchased
training     the training loop, its evidence, optimizer and processes, rollouts of other trainers
analysis     accuracies, intervals, verdicts, costs
calibration  what a teacher's answers can tell
plan         params.yaml as a whole, checked, expanded into cells
report       results.md, pictures, the page
runner       the plan in DVC: written, run, restored, kept small
commands     the command line: estimate, audit, export and import of other people's files
api          forks, weights and loss as functions, for other trainers

tests/test_layers.py holds the layers.
"""

import os

# read when pyarrow is imported: its own allocator keeps what was freed, a fifth of a rollout's peak
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
