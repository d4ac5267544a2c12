"""The DAG, one module per stage. A stage never imports another stage."""

from pipeline.forkserver import begin

begin()
