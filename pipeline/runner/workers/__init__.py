"""Cells on the nodes of a Ray cluster, each in a folder and a DVC cache of its own.

    omniopd run --on ray (pool.py)                omniopd worker --join HEAD (join.py)
      flow: which cell, DVC's locks                 a Ray node, after its code was compared
       └─ a Ray task for each cell (task.py) ──────── carrier.py: inputs, stage, outputs
            by hash, through the DVC remote or a shared cache (objects.py)

Ray gives a cell to a node and to another one when that dies. The head alone writes dvc.lock and the
run-cache, after it has read through what came back.
"""
