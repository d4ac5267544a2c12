"""runtime.launch: a stage's command handed to srun, ssh or whatever starts it elsewhere.

    omniopd stage X (client.py) ── keeper.py ── srun ... omniopd launched ... (inner.py) ── stage X
      what DVC started             outlives it    the prefix of params.yaml, then on its machine

Commands and hashes are those of a stage that runs here. The keeper is no child of the stage: it
sees the stage's end, also after a kill -9, and then cancels the job.
"""
